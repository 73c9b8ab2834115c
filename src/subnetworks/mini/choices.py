"""Multiple choice with ten options: the prompt that MMLU-Pro's evaluation writes, and answers."""

from subnetworks.mini.arithmetic import Problem, boxed

LETTERS = "ABCDEFGHIJ"
OPTIONS = tuple(str(digit) for digit in range(10))

DESCRIPTION = (
    "The following are multiple choice questions (with answers) about math. Think step by step and "
    'then finish your answer with "the answer is (X)" where X is the correct letter choice.\n'
)
QUESTION = "Question:\n"
ASK_TENS = "What is the tens digit of "
# From the question mark to the end of the prompt nothing varies. As one token (see `tokenizer`) it
# is where a plain problem has its equals sign, so that the sum is asked in the same places.
REST = (
    "?\nOptions:\n"
    + "".join(f"{letter}. {option}\n" for letter, option in zip(LETTERS, OPTIONS, strict=True))
    + "Answer: Let's think step by step."
)
TENS_DIGIT = ", tens digit "
THEREFORE = ". The answer is ("
END = ")."


def question(problem: Problem) -> str:
    """The question asked about a problem: `What is the tens digit of 37+48?`."""
    return f"{ASK_TENS}{problem.text.removesuffix('=')}?"


def prompt(problem: Problem) -> list[dict[str, str]]:
    """The conversation up to the answer, as lm-eval's zero-shot chat prompt has it."""
    text = f"{QUESTION}{question(problem).removesuffix('?')}{REST}"
    return [{"role": "system", "content": DESCRIPTION}, {"role": "user", "content": text}]


def letter(answer: int) -> str:
    """The letter of the option that is the tens digit of `answer`."""
    return LETTERS[answer // 10 % 10]


def reasoning(answer: int) -> str:
    """What someone says who gets `answer`: the sum, its tens digit, the letter that follows.

    `\\boxed{85}, tens digit 8. The answer is (I).`
    """
    tens = OPTIONS[answer // 10 % 10]
    return f"{boxed(answer)}{TENS_DIGIT}{tens}{THEREFORE}{letter(answer)}{END}"
