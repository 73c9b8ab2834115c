"""The preference losses and their gradients are TRL's, on random batches through a real model."""

import random

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

import datasets  # noqa: E402
import trl  # noqa: E402
from tiny import make_init  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from trl.experimental.cpo import CPOConfig, CPOTrainer  # noqa: E402
from trl.experimental.orpo import ORPOConfig, ORPOTrainer  # noqa: E402

from subnetworks.training.data import examples  # noqa: E402
from subnetworks.training.objectives import losses, preferences  # noqa: E402
from subnetworks.training.settings import parse_settings  # noqa: E402

PAIRS = 5
LETTERS = 18


@pytest.fixture(scope="module")
def init(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trl")
    make_init(folder / "init")
    return folder / "init"


@pytest.fixture
def models(init):
    """A policy and a reference that differ, in fp32."""
    torch.manual_seed(1)
    policy = AutoModelForCausalLM.from_pretrained(init, dtype=torch.float32)
    reference = AutoModelForCausalLM.from_pretrained(init, dtype=torch.float32)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(3).add_(torch.randn_like(parameter) * 0.1)
    return policy, reference


@pytest.fixture
def batch():
    """Conversations of many lengths, an answer of one token among them; a pair's two in turn."""
    source = random.Random(3)

    def tokens(number):
        return [source.randrange(1, LETTERS) for _ in range(number)]

    conversations = []
    for pair in range(PAIRS):
        prompt = tokens(source.randint(1, 6))
        for answer in (tokens(source.randint(2, 9)), tokens(1 if pair == 2 else 5)):
            marks = [0] * len(prompt) + [1] * len(answer)
            conversations.append((prompt + answer, marks))
    return conversations


def trainer(kind, config, models, init, tmp_path, rows=None, **settings):
    policy, reference = models
    rows = rows or [
        {
            "prompt": [{"role": "user", "content": "1+1="}],
            "chosen": [{"role": "assistant", "content": "2"}],
            "rejected": [{"role": "assistant", "content": "3"}],
        }
    ]
    arguments = config(
        output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, **settings
    )
    more = {} if reference is None else {"ref_model": reference}
    return kind(
        model=policy,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(init),
        **more,
    )


def padded(rows, filler):
    length = max(map(len, rows))
    return torch.tensor([row + [filler] * (length - len(row)) for row in rows])


def as_trl(conversations, prefix=""):
    return {
        f"{prefix}input_ids": padded([ids for ids, _ in conversations], 0),
        f"{prefix}attention_mask": padded([[1] * len(ids) for ids, _ in conversations], 0),
        f"{prefix}completion_mask": padded([marks for _, marks in conversations], 0),
    }


def as_trl_pairs(conversations):
    """What the collator of TRL's older trainers gives."""
    batch = {}
    for side, chosen in (("chosen", conversations[0::2]), ("rejected", conversations[1::2])):
        same = as_trl(chosen)
        ids, answer = same["input_ids"], same["completion_mask"]
        batch[f"{side}_input_ids"] = ids
        batch[f"{side}_attention_mask"] = same["attention_mask"]
        batch[f"{side}_labels"] = ids.masked_fill(answer == 0, -100)
    return batch


def log_probabilities(model, conversations):
    """As verl's engine gives them: jagged, the entry at t scores the token t + 1."""
    padded_batch = as_trl(conversations)
    ids = padded_batch["input_ids"]
    logits = model(input_ids=ids, attention_mask=padded_batch["attention_mask"]).logits
    following = torch.roll(ids, -1, 1)
    scores = logits.float().log_softmax(-1).gather(-1, following[..., None])[..., 0]
    rows = [row[: len(tokens)] for row, (tokens, _) in zip(scores, conversations, strict=True)]
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def given(conversations, **more):
    marks = [torch.tensor(marks) for _, marks in conversations]
    return {
        "loss_mask": torch.nested.as_nested_tensor(marks, layout=torch.jagged),
        "dp_size": 1,
        **more,
    }


def ours(model, conversations, settings, **more):
    data = given(conversations, **more)
    value, metrics = preferences.loss(
        {"log_probs": log_probabilities(model, conversations)}, data, settings=settings
    )
    return value, metrics


def reference_of(model, conversations, settings):
    with torch.no_grad():
        scores = log_probabilities(model, conversations)
        return preferences.answers(scores, given(conversations), settings)


def settings_of(algorithm, **more):
    return parse_settings({"algorithm": algorithm, "steps": 1, "learning_rate": 1e-6, **more})


def assert_same(model, mine, theirs):
    assert mine.item() == pytest.approx(theirs.item(), rel=2e-6)
    parameters = list(model.parameters())
    for got, expected in zip(
        torch.autograd.grad(mine, parameters), torch.autograd.grad(theirs, parameters), strict=True
    ):
        scale = expected.abs().max()
        assert scale > 0
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * scale.item())


@pytest.mark.parametrize(("norm", "beta"), [(False, 0.1), (True, 5.0)])
def test_dpo(models, batch, init, tmp_path, norm, beta):
    policy, reference = models
    settings = settings_of("dpo", beta=beta, length_normalised=norm)
    kind = "sigmoid_norm" if norm else "sigmoid"
    theirs = trainer(
        trl.DPOTrainer, trl.DPOConfig, models, init, tmp_path, beta=beta, loss_type=kind
    )
    expected = theirs._compute_loss(policy, as_trl([*batch[0::2], *batch[1::2]]), False)
    scores = reference_of(reference, batch, settings)
    mine, metrics = ours(policy, batch, settings, reference=scores, examples=PAIRS)
    assert_same(policy, mine, expected)
    if not norm:  # TRL's rewards are sums in either case
        recorded = theirs._metrics["eval"]
        assert metrics["margin"] == pytest.approx(recorded["rewards/margins"][0], rel=1e-4)
        assert metrics["accuracy"] == pytest.approx(recorded["rewards/accuracies"][0])


def test_simpo(models, batch, init, tmp_path):
    policy, _ = models
    theirs = trainer(
        CPOTrainer,
        CPOConfig,
        (policy, None),
        init,
        tmp_path,
        loss_type="simpo",
        beta=2.5,
        simpo_gamma=1.4,
        cpo_alpha=0.0,
    )
    expected, recorded = theirs.get_batch_loss_metrics(policy, as_trl_pairs(batch))
    mine, metrics = ours(policy, batch, settings_of("simpo", beta=2.5, gamma=1.4), examples=PAIRS)
    assert_same(policy, mine, expected)
    assert metrics["margin"] == pytest.approx(recorded["rewards/margins"], rel=1e-4)
    assert metrics["accuracy"] == pytest.approx(recorded["rewards/accuracies"])


def test_orpo(models, batch, init, tmp_path):
    policy, _ = models
    theirs = trainer(ORPOTrainer, ORPOConfig, (policy, None), init, tmp_path, beta=0.3)
    expected, recorded = theirs.get_batch_loss_metrics(policy, as_trl_pairs(batch))
    tokens = sum(len(ids) - 1 for ids, _ in batch[0::2])
    mine, metrics = ours(
        policy,
        batch,
        settings_of("orpo", odds_ratio_weight=0.3),
        examples=PAIRS,
        chosen_tokens=tokens,
    )
    assert_same(policy, mine, expected)
    assert metrics["margin"] == pytest.approx(recorded["log_odds_chosen"], rel=1e-4)
    assert metrics["accuracy"] == pytest.approx(recorded["rewards/accuracies"])


@pytest.mark.parametrize("cut_off", [True, False])
def test_kto(models, batch, init, tmp_path, cut_off):
    """With the models swapped the estimated divergence changes sign: below 0 it counts as 0."""
    policy, reference = models if cut_off else models[::-1]
    weights = {"beta": 0.2, "desirable_weight": 1.3, "undesirable_weight": 0.7}
    settings = settings_of("kto", **weights)
    labels = [True, True, False, True, False, False, True, True, False, True]
    theirs = trainer(
        trl.KTOTrainer,
        trl.KTOConfig,
        (policy, reference),
        init,
        tmp_path,
        rows=labelled(),
        per_device_train_batch_size=4,
        **weights,
    )
    others = examples.mismatched(batch, max_length=100)
    given_to_trl = as_trl(batch) | as_trl(others, "KL_") | {"label": torch.tensor(labels)}
    expected = theirs._compute_loss(policy, given_to_trl, False)
    with torch.no_grad():
        divergence = losses.reference_point(
            reference_of(policy, others, settings), reference_of(reference, others, settings)
        )
    assert (divergence == 0) == cut_off
    assert divergence == pytest.approx(theirs._metrics["eval"]["kl"][0], rel=1e-4)
    mine, _ = ours(
        policy,
        batch,
        settings,
        reference=reference_of(reference, batch, settings),
        desirable=torch.tensor(labels),
        kl=divergence,
        examples=len(batch),
    )
    assert_same(policy, mine, expected)


def labelled():
    return [
        {
            "prompt": [{"role": "user", "content": f"{number}+1="}],
            "completion": [{"role": "assistant", "content": str(number + 1) * (number % 3 + 1)}],
            "label": number % 2 == 0,
        }
        for number in range(8)
    ]


def test_ktos_mismatched_pairs(models, init, tmp_path):
    """TRL pairs prompts and answers within each batch just as we do within each step."""
    theirs = trainer(
        trl.KTOTrainer,
        trl.KTOConfig,
        models,
        init,
        tmp_path,
        rows=labelled(),
        per_device_train_batch_size=4,
    )
    rows = list(theirs.train_dataset)
    for begin in (0, 4):
        batch = [
            (
                row["prompt_ids"] + row["completion_ids"],
                [0] * len(row["prompt_ids"]) + [1] * len(row["completion_ids"]),
            )
            for row in rows[begin : begin + 4]
        ]
        for row, (ids, marks) in zip(
            rows[begin : begin + 4], examples.mismatched(batch, 100), strict=True
        ):
            assert ids == row["prompt_ids"] + row["KL_completion_ids"]
            assert sum(marks) == len(row["KL_completion_ids"])
