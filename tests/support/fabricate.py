"""A made-up experiment folder, in the formats that the stages write; the numbers mean nothing."""

import json
from pathlib import Path

import numpy as np
import polars

from subnetworks import artefacts

LAYERS, HIDDEN, MLP, VOCABULARY = 4, 128, 384, 64
TINY = ("1e-8", "1e-7", "1e-6")
INIT_SCORES = {"math500": 0.40, "agieval": 0.30, "mmlu_pro": 0.25}


def shapes() -> list[tuple[str, int | None, str, tuple[int, ...]]]:
    """(name, layer, matrix, shape) of a small Qwen2."""
    found: list[tuple[str, int | None, str, tuple[int, ...]]] = [
        ("model.embed_tokens.weight", None, "embedding", (VOCABULARY, HIDDEN))
    ]
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        for part, rows in (("q", HIDDEN), ("k", HIDDEN // 2), ("v", HIDDEN // 2)):
            found.append(
                (f"{stem}.self_attn.{part}_proj.weight", layer, part.upper(), (rows, HIDDEN))
            )
            found.append((f"{stem}.self_attn.{part}_proj.bias", layer, "bias", (rows,)))
        found.append((f"{stem}.self_attn.o_proj.weight", layer, "O", (HIDDEN, HIDDEN)))
        found.append((f"{stem}.mlp.gate_proj.weight", layer, "gate", (MLP, HIDDEN)))
        found.append((f"{stem}.mlp.up_proj.weight", layer, "up", (MLP, HIDDEN)))
        found.append((f"{stem}.mlp.down_proj.weight", layer, "down", (HIDDEN, MLP)))
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found.append((f"{stem}.{norm}.weight", layer, "norm", (HIDDEN,)))
    found.append(("model.norm.weight", None, "norm", (HIDDEN,)))
    found.append(("lm_head.weight", None, "head", (VOCABULARY, HIDDEN)))
    return found


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_result(folder: Path, name: str, value: object) -> None:
    """Write `name` within the folder of results."""
    write_json(folder / name, value)


def write_table(results: Path, name: str, *rows: dict[str, object]) -> None:
    """Write a table's CSV with these values of our rows, the others empty."""
    schema = artefacts.load(name, artefacts.Table).types
    full = [dict.fromkeys(schema) | {"source": "here"} | row for row in rows]
    (results / "tables").mkdir(exist_ok=True, parents=True)
    polars.DataFrame(full, schema=schema).write_csv(results / "tables" / f"{name}.csv")


def update(results: Path, name: str, sparsity: float, rng: np.random.Generator) -> None:
    rows = []
    for tensor, layer, matrix, shape in shapes():
        n = int(np.prod(shape))
        share = 1.0 if matrix == "norm" else sparsity + (0.03 if matrix in "QK" else -0.02)
        bits = int(rng.binomial(n, min(max(share, 0.0), 1.0)))
        close = min(n, bits + int(rng.integers(0, max(n // 50, 1) + 1)))
        rows.append(
            {
                "name": tensor,
                "layer": layer,
                "matrix": matrix,
                "shape": "x".join(map(str, shape)),
                "n": n,
                "equal": bits,
                "bit_equal": bits,
                **{f"isclose_bf16_{t}": min(bits + k, close) for k, t in enumerate(TINY)},
                "isclose_bf16_1e-5": close,
                "isclose_bf16_1e-4": (close + n) // 2,
            }
        )
    frame = polars.DataFrame(rows)
    path = results / "updates" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path)

    def total(of: polars.DataFrame) -> dict[str, object]:
        n = int(of["n"].sum())
        close = int(of["isclose_bf16_1e-5"].sum())
        return {
            "n": n,
            "equal": int(of["equal"].sum()),
            "bit_equal": int(of["bit_equal"].sum()),
            "isclose_bf16": {
                t: int(of[f"isclose_bf16_{t}"].sum()) for t in (*TINY, "1e-5", "1e-4")
            },
            "sparsity": close / n,
            "changed": n - close,
        }

    inner = frame.filter(~polars.col("matrix").is_in(["embedding", "head"]))
    write_json(
        results / "updates" / f"{name}.json",
        {
            "before": "a",
            "after": "b",
            "compared_share": 0.995,
            **total(frame),
            "without_embeddings": total(inner),
        },
    )
    matrices = [row for row in rows if row["matrix"] not in ("norm", "bias")]
    spectra = []
    for row in matrices:
        height, width = map(int, str(row["shape"]).split("x"))
        full = min(height, width)
        rank = full - int(rng.integers(0, 2))
        spectra.append(
            {
                "name": row["name"],
                "layer": row["layer"],
                "matrix": row["matrix"],
                "rows": height,
                "columns": width,
                "rank": rank,
                "full_rank": full,
                "rank_fraction": rank / full,
                "stable_rank": full * 0.1,
                "effective_rank": full * 0.6,
                "energy_rank_99": int(full * 0.8),
            }
        )
    ranks = polars.DataFrame(spectra)
    ranks.write_parquet(results / "updates" / f"{name}.rank.parquet")
    write_json(
        results / "updates" / f"{name}.rank.json",
        {
            "mean_rank": ranks["rank_fraction"].mean(),
            "mean_rank_without_embeddings": ranks["rank_fraction"].mean(),
            "min_rank": ranks["rank_fraction"].min(),
            "matrices": ranks.height,
            "compared_share": 0.99,
            "borderline": 1,
        },
    )


def overlap(results: Path, name: str, masks: tuple[str, str], counts: tuple[int, int, int]) -> None:
    n, (first, second, both) = 804992, counts
    write_json(
        results / "overlaps" / f"{name}.json",
        {
            "masks": list(masks),
            "n": n,
            "compared_share": 1.0,
            "changed": [first, second],
            "intersection": both,
            "union": first + second - both,
            "o1": both / first,
            "o2": both / second,
            "jaccard": both / (first + second - both),
            "chance": {"o1": second / n, "o2": first / n, "jaccard": 0.3},
            "chance_per_tensor": {"o1": second / n + 0.03, "o2": first / n + 0.03},
            "chance_by_magnitude": {"o1": 0.73, "o2": 0.74},
            "z": 321.0,
        },
    )


def score(results: Path, checkpoint: str, benchmark: str, gain: float, n: int = 200) -> None:
    # One generator a benchmark: the same questions are easy for every checkpoint.
    rng = np.random.default_rng(sum(map(ord, benchmark)))
    answers = (rng.random(n) < INIT_SCORES[benchmark] + gain).astype(float)
    folder = results / "evaluation" / checkpoint
    folder.mkdir(parents=True, exist_ok=True)
    samples = {
        "doc_id": range(n),
        "row": [f"{benchmark}/{k}" for k in range(n)],
        "group": [str(k % 5 + 1) if benchmark == "math500" else "" for k in range(n)],
        "gold": [str(k % 7) for k in range(n)],
        "correct": answers,
    }
    polars.DataFrame(samples).write_parquet(folder / f"{benchmark}.samples.parquet")

    def summary(values: np.ndarray) -> dict[str, float]:
        stderr = values.std(ddof=1) / np.sqrt(len(values))
        cut = int(np.sum(values == 0)) // 3
        mean = float(values.mean())
        return {"score": mean, "stderr": float(stderr), "n": len(values), "cut": cut}

    levels = {str(k + 1): summary(answers[k::5]) for k in range(5)}
    write_json(
        folder / f"{benchmark}.json",
        {**summary(answers), "groups": levels if benchmark == "math500" else {}, "metric": "acc"},
    )


def log(results: Path, run: str, measure: str, seed: int, shift: float, steps: int = 60) -> None:
    noise = np.random.default_rng(5).normal(0, 0.05, steps)
    own = np.random.default_rng(seed).normal(0, 0.01, steps)
    step = np.arange(1, steps + 1)
    curve = 0.69 - 0.4 * step / steps if measure == "loss" else 0.4 + 0.3 * step / steps
    folder = results / "runs" / run
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["step,loss,reward,accuracy,learning_rate,grad_norm,seconds"]
    for number, value in zip(step, curve + noise + own + shift * step / steps, strict=True):
        loss, reward = (value, "") if measure == "loss" else (0.001, value)
        lines.append(f"{number},{loss},{reward},{number / steps},1e-06,1.0,1.5")
    (folder / "log.csv").write_text("\n".join(lines) + "\n")


def trajectory(results: Path, run: str, outside: tuple[int, ...], every: int) -> None:
    """Saved steps every so often, each with so many weights that the end has as in the init."""
    n, steps, before = 10_000, [], 0
    for number, beyond in enumerate(outside, 1):
        changed = 500 * number + beyond
        moved = changed - before + 40
        steps.append(
            {
                "step": every * number,
                "n": n,
                "changed": changed,
                "outside_final": beyond,
                "sparsity": 1 - (changed - 10) / n,
                "sparsity_consecutive": 1 - moved / n,
                "changed_share": changed / n,
                "outside_final_share": beyond / n,
            }
        )
        before = changed
    cancelled = max(outside) + 30
    final = 500 * len(outside)
    counts = {"never": n - cancelled - final, "cancelled": cancelled, "final": final}
    write_json(results / "trajectories" / f"{run}.json", {"n": n, **counts, "steps": steps})


FOLLOWED = {
    "runs": [
        {"run": "grpo", "algorithm": "GRPO"},
        {"run": "dpo", "algorithm": "DPO", "label": "DPO, long"},
    ]
}
SPECS = {
    "table_1_update_sparsity": {
        "updates": [
            {
                "update": "sft",
                "label": "SFT",
                "algorithm": "SFT",
                "on_policy": False,
                "kl": False,
                "online": False,
            },
            {
                "update": "grpo",
                "label": "GRPO",
                "algorithm": "GRPO",
                "on_policy": True,
                "kl": False,
                "online": True,
            },
            {
                "update": "dpo",
                "label": "DPO & co_1",
                "algorithm": "DPO",
                "on_policy": False,
                "kl": True,
                "online": False,
            },
        ]
    },
    "table_2_update_rank": {
        "updates": [
            {"update": "grpo", "label": "GRPO", "algorithm": "GRPO"},
            {"update": "dpo", "label": "DPO", "algorithm": "DPO", "published": "Tulu 8B"},
        ]
    },
    "table_3_subnetwork_accuracy": {
        "pairs": [
            {"algorithm": "GRPO", "full": "grpo", "subnetwork": "grpo_subnetwork", "init": "sft"},
            {"algorithm": "DPO", "full": "dpo", "subnetwork": "dpo_subnetwork", "init": "sft"},
        ],
        "benchmarks": ["math500", "agieval", "mmlu_pro"],
    },
    "table_4_overlap": {
        "overlaps": [
            {"overlap": "grpo_seeds", "label": "seed (GRPO)", "published": "seed"},
            {"overlap": "grpo_dpo", "label": "GRPO against DPO"},
        ]
    },
    "table_5_in_distribution": {
        "updates": [
            {
                "update": "dpo",
                "algorithm": "DPO",
                "in_distribution": True,
                "learning_rate": 1.5e-6,
                "steps": 100,
            },
            {
                "update": "sft",
                "algorithm": "SFT",
                "in_distribution": False,
                "published": "Llama-3.1-8B-SFT, SFT",
            },
        ]
    },
    "table_6_tolerance_sweep": {
        "updates": [
            {"update": "sft", "algorithm": "SFT"},
            {"update": "dpo", "algorithm": "DPO", "published": "allenai/Llama-3.1-Tulu-3-8B-DPO"},
        ]
    },
    "conjecture_1_agreement": {
        "agreements": [
            {
                "algorithm": algorithm.upper(),
                "update": f"{algorithm}_agreement",
                "within": f"{algorithm}_within",
                "baselines": {
                    "init": f"{algorithm}_agreement_init",
                    "seed": f"{algorithm}_agreement_seed",
                },
            }
            for algorithm in ("grpo", "dpo")
        ]
    },
    "section_6_ablations": {
        "ablations": [
            {
                "ablation": "KL",
                "setting": "without",
                "algorithm": "GRPO",
                "regularised": False,
                "published": "without KL",
                "of": [
                    {"update": "grpo", "batch_size": 16, "steps": 60},
                    {"update": "grpo_seed1", "batch_size": 16, "steps": 60},
                ],
            },
            {
                "ablation": "KL",
                "setting": "in the loss",
                "algorithm": "GRPO",
                "regularised": True,
                "published": "with KL",
                "of": [{"update": "grpo_kl", "batch_size": 16, "steps": 60}],
            },
            {
                "ablation": "batch",
                "setting": "as many steps",
                "algorithm": "DPO",
                "of": [{"run": "dpo", "step": 30, "batch_size": 32, "steps": 60}],
            },
        ]
    },
    "figure_1_sft_vs_rl": {
        "families": [
            {"family": "mini, GRPO", "sft": "sft", "rl": "grpo"},
            {"family": "mini, DPO", "sft": "sft", "rl": "dpo"},
        ]
    },
    "figure_2_gradient_shares": FOLLOWED,
    "figure_5_sparsity_over_training": FOLLOWED,
    "figure_6_outside_final_mask": FOLLOWED,
    "figure_7_accuracy_and_intervals": FOLLOWED,
    "figure_3_layerwise_sparsity": {
        "updates": [
            {"update": "sft", "label": "SFT", "algorithm": "SFT"},
            {"update": "grpo", "label": "GRPO", "algorithm": "GRPO"},
            {"update": "dpo", "label": "DPO", "algorithm": "DPO"},
        ]
    },
    "figure_4_training_loss": {
        "pairs": [
            {"algorithm": "DPO", "full": "dpo", "subnetwork": "dpo_subnetwork"},
            {"algorithm": "GRPO", "full": "grpo", "subnetwork": "grpo_subnetwork"},
        ]
    },
}


def make(results: Path) -> Path:
    """Write the whole folder; returns it."""
    rng = np.random.default_rng(0)
    sparsities = {"sft": 0.02, "grpo": 0.56, "dpo": 0.50, "grpo_seed1": 0.54, "grpo_kl": 0.57}
    for algorithm, agreement in (("grpo", 0.90), ("dpo", 0.97)):
        sparsities |= {
            f"{algorithm}_agreement": agreement,
            f"{algorithm}_agreement_init": 0.55,
            f"{algorithm}_agreement_seed": 0.82,
        }
    for name, sparsity in sparsities.items():
        update(results, name, sparsity, rng)
    overlap(results, "grpo_seeds", ("grpo", "grpo_seed1"), (360_000, 364_000, 333_000))
    overlap(results, "grpo_dpo", ("grpo", "dpo"), (360_000, 399_000, 330_000))
    for algorithm in ("grpo", "dpo"):
        masks = (algorithm, f"{algorithm}_subnetwork")
        overlap(results, f"{algorithm}_within", masks, (360_000, 350_000, 350_000))
    gains = {"sft": 0.0, "grpo": 0.2, "grpo_subnetwork": 0.21, "dpo": 0.25, "dpo_subnetwork": 0.25}
    for checkpoint, gain in gains.items():
        for benchmark in INIT_SCORES:
            score(results, checkpoint, benchmark, gain if benchmark == "math500" else gain / 20)
    log(results, "dpo", "loss", 1, 0.0)
    log(results, "dpo_subnetwork", "loss", 2, -0.02)
    log(results, "grpo", "reward", 3, 0.0)
    log(results, "grpo_seed1", "reward", 5, 0.0)
    log(results, "grpo_kl", "reward", 6, 0.0)
    log(results, "grpo_subnetwork", "reward", 4, 0.01)
    trajectory(results, "grpo", (0, 20, 50, 30, 10, 0), every=10)
    trajectory(results, "dpo", (0, 5, 15, 0), every=15)
    return results
