"""The grader, rule by rule: what must match, and what must not."""
# ruff: noqa: E501 (a case a line)

import json
from pathlib import Path

import pytest

pytest.importorskip("math_verify")

from subnetworks.grading.boxes import last_boxed, spoken
from subnetworks.grading.grader import Grade, grade, same, same_meaning, same_text

MATH500 = Path(__file__).parents[3] / "../shared/data/math500/test.jsonl"

# rule: (reference, answers that are right, answers that are wrong)
RULES = {
    "numbers": [
        ("96", ["96", "+96", "96.0", "96.", r"9.6 \times 10^{1}"], ["97", "9", "-96", r"\pm 96", ""]),
        (r"\frac{1}{2}", ["0.5", ".5", r"\dfrac12", r"\frac 12", "1/2", "½"], ["2", "1.2", "1 2"]),
        (".0000672", [r"6.72 \times 10^{-5}", "6.72e-5"], ["0.000067", "0.00067"]),
        ("8", ["2^3", r"\sqrt{64}"], ["2^4", "2 3", "8!"]),
    ],
    "thousands": [
        ("1,000", ["1000", r"1{,}000", r"1,\!000", "1 000", r"1\,000"], ["1", "1,00", "1, 000", "1000000"]),
        (r"11,\! 111,\! 111,\! 100", ["11111111100", "11,111,111,100"], ["11,111,111"]),
        (r"\$32,\!348", ["32348", r"\$32,348.00"], ["32, 348", "32.348"]),
    ],
    "tuples are not fused": [
        ("(1,234)", ["(1, 234)", "(1,234)"], ["1234", "(1234)"]),
        ("1234", ["1,234"], ["(1,234)", "[1,234]", "1, 234", r"\{1,234\}"]),
        ("[1,200]", [r"[1, 200]", r"1 \le x \le 200"], ["1200", "(1,200)"]),
        ("(1000, 2000)", ["(1,000, 2,000)"], ["(1,000,2)"]),
    ],
    "spaces keep numbers apart": [
        ("12", ["12"], ["1 2", r"1\;2", r"1 \text{ } 2"]),
        ("1 2", ["1 2"], ["12", "2"]),
        (r"31/2", ["15.5", r"\frac{31}{2}"], ["3 1/2", r"3\frac{1}{2}"]),
        (r"3 \frac{1}{2}", ["3 1/2", "7/2", "3.5", "3½"], ["31/2", "3 3/2", r"\frac{3}{2}"]),
        (r"137 \frac{1}{2}", ["137.5", r"\frac{275}{2}"], [r"\frac{137}{2}", "1371/2"]),
    ],
    "units": [
        (r"864 \mbox{ inches}^2", ["864", "864 square inches", r"864\text{ in}^2", "6 square feet"], [r"864\text{ cm}^2", r"864\text{ inches}", r"5\text{ square feet}", "846"]),
        (r"6\text{ ft}", ["6", "6 feet", r"72\text{ inches}", "2 yards"], [r"6\text{ inches}", r"72", r"6\text{ ft}^2"]),
        ("42", [r"42\text{ cm}", r"42\,\mathrm{cm}"], [r"43\text{ cm}", "42m", "42x"]),
        (r"5\text{ m}", ["5", "5m", "5 meters", "500 cm"], ["5s", r"5\text{ M}", r"5\text{ cm}"]),
        ("2k", ["2k"], ["2"]),
        (r"60 \text{ mph}", ["60", r"60\text{ miles per hour}"], [r"60\text{ km/h}"]),
        (r"12\pi", [r"12\pi\text{ cm}", r"12 \pi \text{ square units}"], [r"12\text{ cm}"]),
    ],
    "money": [
        (r"\$36", ["36", "$36", "$36$", r"36\text{ dollars}", r"\$36.00"], [r"36\%", r"36\text{ cents}", r"-\$36"]),
        (r"5.4 \text{ cents}", ["5.4", r"5.4¢", r"\$0.054"], [r"\$5.4", r"5.4\%"]),
    ],
    "degrees": [
        (r"90^\circ", ["90", "90°", "90˚", r"90^{\circ}", r"90\text{ degrees}", r"90\degree"], ["90 radians", r"90\%", "9", "90^0"]),
        (r"\tan 20^\circ", [r"\tan 20°", r"\tan(20^\circ)"], [r"\tan 20", r"\tan 20^2"]),
        (r"\frac12", [r"\sin 30^\circ", r"\cos 60°"], [r"\sin 30", r"\cos 30^\circ"]),
        (r"20^\circ\text{C}", ["20", "20°C"], [r"20^\circ\text{F}"]),
    ],
    "percent": [
        (r"10\%", ["10", r"10\%", "0.1", r"\frac{1}{10}", "10 percent"], [r"0.1\%", "0.01", "1"]),
        ("10", [r"10\%"], [r"0.1\%", r"100\%"]),
        ("0.1", [r"10\%"], [r"0.1\%", r"1\%"]),
    ],
    "repeating decimals": [
        (r"\frac13", [r"0.\overline{3}", r"0.333\ldots", "0.3333...", "0.333333"], ["0.3", "0.33", "0.333", r"0.\overline{34}"]),
        (r"0.1\overline{6}", [r"\frac16", "1/6"], ["0.16", "0.1", r"0.\overline{16}"]),
        (r"0.\overline{36}", [r"\frac{4}{11}", r"0.3\overline{63}"], [r"0.36", r"\frac{9}{25}"]),
    ],
    "decoration": [
        ("42", [r"\mathbf{42}", r"\textbf{42}", "**42**", r"\text{42}", r"\mathrm{42}", r"\color{red}{42}", r"\color{red} 42", r"\textcolor{blue}{42}", r"\boldsymbol{42}", "{42}", r"\displaystyle 42", r"\(42\)", "= 42"], [r"\mathbf{4}2 3", r"\textcolor{blue}{24}"]),
        (r"\frac{\pi}{2}", [r"\mathbf{\frac{\pi}{2}}", r"\dfrac{π}{2}"], [r"\mathbf{\frac{2}{\pi}}"]),
        ("x^2", ["x²", "x^{2}"], ["x_2", "x2"]),
        (r"2\sqrt{13}", ["2√13", r"2 \sqrt{ 13 }"], ["√13", "213"]),
        ("-5", ["−5", "–5"], ["5"]),
    ],
    "words behind a number": [
        ("42", ["42 apples", r"42\text{ apples}", r"42 \text{ is the answer}", r"\text{Answer} = 42"], [r"5 \text{ or } 42", r"42 \text{ or more}", r"\text{not } 42", r"42 \text{ or } 43"]),
        ("3000000", [r"3 \text{ million}", "3 million"], [r"3 \text{ thousand}"]),
        ("3", ["3 dogs", r"3^{\text{rd}}"], [r"3 \text{ million}", r"3 \text{ dozen}", r"3x", r"3i"]),
    ],
    "choices": [
        (r"\text{(C)}", ["C", "(C)", r"\text{C}", "(C) 42", r"\text{(C)}\ 42", "C. 42", r"\textbf{(C) } 42", "C: x=3"], ["B", "(B) 42", r"\text{(B)}\ 42", "42", "D", r"\text{cat}"]),
        ("A", ["A", "A. 5", "(A)"], ["B", "B. C"]),
        ("42", [r"\text{(C)}\ 42", "(C) 42", r"\textbf{(C) } 42"], ["(C)", "(C) 43"]),
    ],
    "words": [
        (r"\text{Evelyn}", ["Evelyn", "evelyn", r"\textbf{Evelyn}"], ["Angela", "Eve", r"\text{Evelyn and Angela}"]),
        (r"\text{ellipse}", ["an ellipse", "Ellipse.", r"\text{an ellipse}"], ["circle", r"\text{hyperbola}"]),
        (r"\text{even}", ["even", "Even"], ["odd", r"\text{neither}"]),
        (r"\text{June 20}", ["June 20", "june 20"], ["June 21", "20"]),
    ],
    "letter case": [
        ("x", ["x"], ["X", "y"]),
        ("2k", [r"2 \cdot k", "k+k"], ["2K", "2l"]),
        ("3R^2", ["3 R^{2}"], ["3r^2"]),
        ("AB", ["AB"], ["ab", "Ab"]),
    ],
    "bases": [
        ("2516_8", ["2516_{8}", "2516", r"2516_{\text{eight}}", r"2516 \text{ (base 8)}", "02516_8", "(2516)_8"], ["2516_7", "2516_{10}", "1358", "2515_8", "2516_{18}"]),
        ("58", ["58_{10}"], ["58_8", "72_8"]),
    ],
    "lists and sets": [
        ("3, 5, 7", ["7,3,5", r"\{3,5,7\}", r"3, 5 \text{ and } 7", "x=3, x=5, x=7", "3;5;7"], ["3,5", "3,5,7,9", "357", "(3,5,7)"]),
        ("1,-2", ["-2, 1", r"\{1, -2\}", r"-2 \text{ or } 1"], ["(1,-2)", "(-2,1)", "1,2", "1"]),
        (r"\{1\pm\sqrt{5},-2\}", [r"-2, 1+\sqrt5, 1-\sqrt5", r"\{-2, 1 \pm \sqrt{5}\}"], [r"-2, 1+\sqrt5", r"\{1\pm\sqrt{5},2\}"]),
        (r"1 \pm \sqrt{19}", [r"1+\sqrt{19}, 1-\sqrt{19}"], [r"1+\sqrt{19}", r"1 \mp 19"]),
        ("5", ["5", "x=5", r"\{5\}"], ["5, 6", "5 or 6", r"\{5,6\}", "[5]"]),
        (r"\{(1,2)\}", ["(1,2)", r"\{(1, 2)\}"], [r"\{1,2\}", "(2,1)"]),
    ],
    "tuples": [
        ("(-2,1)", [r"(-2, 1.0)", r"\left(-2,1\right)", "-2,1"], ["(1,-2)", "1,-2", r"\{-2,1\}", "[-2,1]", "(-2,1]", "(-2,1,0)"]),
        ("(1,-16,-4,43)", ["[1,-16,-4,43]"], ["(1,-16,-4)", "(1,-16,-4,34)"]),
        (r"\left( 3, \frac{\pi}{2} \right)", [r"(3,\pi/2)"], [r"(3,\pi)", r"(\pi/2,3)"]),
    ],
    "intervals and inequalities": [
        (r"(5,\infty)", ["x>5", "5<x", r"(5, +\infty)", r"x \in (5,\infty)"], [r"x\ge5", r"[5,\infty)", "x<5", "5"]),
        (r"x \in [-2,7]", [r"-2 \le x \le 7", "[-2,7]", r"7 \geq x \geq -2"], ["-2 < x < 7", r"-2 \le y \le 7", "(-2,7)", r"-2 \le x < 7"]),
        ("(3,4]", [r"3<x\leq 4", r"\left(3,4\right]"], ["(3,4)", "[3,4]", "3,4", "[3,4)"]),
        (r"(-\infty, 2) \cup (3, \infty)", [r"x<2 \text{ or } x>3", r"(3,\infty)\cup(-\infty,2)"], [r"x<2 \text{ and } x>3", r"(-\infty,2]\cup(3,\infty)", r"(-\infty,2)"]),
        ("5", ["5"], ["x > 5", r"\le 5"]),
    ],
    "equations": [
        ("x=5", ["5", "x = 5.0"], ["y=5", "x=6"]),
        (r"\angle A = 30^\circ", ["30", "30°"], ["60"]),
        ("y = 2x + 3", ["y=3+2x", "2x+3"], ["y=2x+4", "y=2X+3"]),
        ("5x - 7y + 11z + 4 = 0", ["-5x+7y-11z-4=0"], ["5x-7y+11z-4=0"]),
    ],
    "algebra": [
        ("p - q", ["-q+p"], ["q-p", "p+q"]),
        ("2k+2", ["2(k+1)"], ["2k+1"]),
        ("6+9i", ["9i+6"], ["6-9i"]),
        (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", [r"\begin{bmatrix} 0.2 \\ -3.6 \end{bmatrix}"], [r"\begin{pmatrix} 0.2 \\ 3.6 \end{pmatrix}"]),
    ],
}  # fmt: skip


def _cases(right: bool) -> list[tuple[str, str]]:
    return [
        (gold, answer)
        for cases in RULES.values()
        for gold, *answers in cases
        for answer in answers[0 if right else 1]
    ]


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_finds_right_answers_right_and_wrong_ones_wrong(rule: str) -> None:
    found = {
        (gold, answer, right): same(gold, answer)
        for gold, *both in RULES[rule]
        for right, answers in zip((True, False), both, strict=True)
        for answer in answers
    }
    assert [case for case, equal in found.items() if equal != case[2]] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{3} and then \boxed{4", None),
        (r"\boxed{3} and then \boxed", None),
        (r"\boxed{3} and then \boxed{}", ""),
        (r"\boxed{3} and then \boxed{ }", ""),
        (r"is $\boxed 3.5$.", "3.5"),
        (r"\boxed 3.5.", "3.5"),
        (r"\(\boxed 7\)", "7"),
        (r"\boxed (1, 2), so", "(1, 2)"),
        (r"\boxed\frac{1}{2}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{ \{1, 2\} }", r"\{1, 2\}"),
        (r"\boxed{a \\{b}}", r"a \\{b}"),
        (r"\boxedfoo{5}", None),
        ("the answer is 42", None),
    ],
)
def test_the_last_box_is_the_answer_or_there_is_none(text: str, found: str | None) -> None:
    assert last_boxed(text) == found


def test_what_is_still_being_thought_is_no_answer() -> None:
    box = r"\boxed{5}"
    assert grade(box, "5") == Grade(True, True, True)
    assert grade(f"<think> … </think> {box}", "5").correct
    assert grade(f"… </think> {box}", "5", thinking=True).correct
    assert not grade(f"<think> … {box}", "5").correct
    assert not grade(f"<think> a </think> {box} <think> b", "5").correct
    assert not grade(f"… {box}", "5", thinking=True).correct
    assert not grade(f"<think> {box} </think> I am sure.", "5").correct
    assert spoken("<think> … ") is None


def test_an_answer_that_was_cut_off_is_wrong() -> None:
    assert grade(r"\boxed{5} and", "5").correct
    assert grade(r"\boxed{5} and", "5", cut=True) == Grade()
    assert grade(r"\boxed{}", "5") == Grade()


def test_text_alone_and_math_verify_alone() -> None:
    assert same_text(r"\frac12", r"\dfrac{1}{2}")
    assert not same_text("0.5", r"\frac12")
    assert same_meaning("0.5", r"\frac12")
    assert not same_meaning("0.5", r"\frac13")
    # Where math-verify alone errs, and the grader does not.
    assert same_meaning("2516_8", "2516_7") and not same("2516_8", "2516_7")


def _golds() -> list[str]:
    if not MATH500.is_file():
        pytest.skip("needs math500")
    rows = [json.loads(line) for line in MATH500.open(encoding="utf-8")]
    assert len(rows) == 500
    return list(dict.fromkeys(row["answer"] for row in rows))


def test_different_references_stay_apart() -> None:
    """A sample of all pairs; those that do not are the same, or differ by what may be left out."""
    golds = _golds()
    pairs = [(a, b) for a in golds for b in golds if a != b][::101]
    assert len(pairs) == 895
    assert [pair for pair in pairs if same(*pair)] == []


def test_references_that_differ_by_what_may_be_left_out() -> None:
    golds = set(_golds())
    for gold, answer in [("36^\\circ", "36"), (r"\$36", "36"), ("40_9", "40"), ("x=5", "5")]:
        assert {gold, answer} <= golds
        assert same(gold, answer)
    assert {"1,-2", "-2,1", "(-2,1)"} <= golds
    assert same("1,-2", "-2,1")
    assert not same("1,-2", "(-2,1)")
    assert not same("36^\\circ", r"\$36")
