import csv
import json

from subnetworks.training.runtime.log import COLUMNS, StepsLog


def line(step, **data):
    return json.dumps({"step": step, "data": data}) + "\n"


def online(step, score):
    return line(
        step,
        **{
            "actor/pg_loss": -0.5,
            "critic/score/mean": score,
            "accuracy": score,
            "actor/lr": 1e-6,
            "actor/grad_norm": 2.0,
            "timing_s/step": 3.0,
            "seconds": 1.5,
            "timing_s/gen": 1.0,
        },
    )


def table(log, path):
    log.write(path)
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))


def test_an_online_log_becomes_the_table(tmp_path):
    file = tmp_path / "steps.jsonl"
    file.write_text(online(1, 0.25) + online(2, 0.5))
    log = StepsLog([file])
    log.read()
    rows = table(log, tmp_path / "log.csv")
    assert list(rows[0]) == list(COLUMNS)
    assert [row["step"] for row in rows] == ["1", "2"]
    assert float(rows[1]["reward"]) == 0.5
    assert float(rows[1]["accuracy"]) == 0.5
    assert float(rows[1]["loss"]) == -0.5
    assert float(rows[1]["learning_rate"]) == 1e-6
    assert float(rows[1]["grad_norm"]) == 2.0
    assert float(rows[1]["seconds"]) == 1.5


def test_what_does_not_apply_is_empty(tmp_path):
    file = tmp_path / "steps.jsonl"
    file.write_text(line(1, **{"train/loss": 0.7, "train/lr": 1e-3, "train/grad_norm": 3.0}))
    log = StepsLog([file])
    log.read()
    (row,) = table(log, tmp_path / "log.csv")
    assert row["loss"] == "0.7"
    assert row["reward"] == row["accuracy"] == row["seconds"] == ""


def test_rows_held_out_have_columns_of_their_own(tmp_path):
    file = tmp_path / "steps.jsonl"
    held_out = {"validation/accuracy": 0.5, "validation/examples": 8, "timing_s/validate": 2.5}
    file.write_text(
        online(1, 0.25) + online(2, 0.25)[:-3] + ", " + json.dumps(held_out)[1:] + "}\n"
    )
    log = StepsLog([file])
    log.read()
    rows = table(log, tmp_path / "log.csv")
    columns = ["validation_accuracy", "validation_examples", "validation_seconds"]
    assert list(rows[0]) == [*COLUMNS, *columns]
    assert [rows[0][name] for name in columns] == ["", "", ""]
    assert [rows[1][name] for name in columns] == ["0.5", "8", "2.5"]
    assert rows[1]["seconds"] == "1.5"


def test_an_attempt_of_an_earlier_version_keeps_its_seconds(tmp_path):
    file = tmp_path / "steps.jsonl"
    file.write_text(line(1, **{"actor/pg_loss": -0.5, "timing_s/step": 3.0}) + online(2, 0.5))
    log = StepsLog([file])
    log.read()
    assert [row["seconds"] for row in table(log, tmp_path / "log.csv")] == ["3.0", "1.5"]


def test_validation_at_step_0_is_no_row(tmp_path):
    file = tmp_path / "steps.jsonl"
    file.write_text(line(0, **{"val-core/acc": 0.1}) + online(1, 0.5))
    log = StepsLog([file])
    log.read()
    assert list(log.rows) == [1]


def test_a_line_still_being_written_waits(tmp_path):
    file = tmp_path / "steps.jsonl"
    second = online(2, 0.5)
    file.write_text(online(1, 0.25) + second[:20])
    log = StepsLog([file])
    assert [row["step"] for row in log.read()] == [1]
    assert log.read() == []
    with open(file, "a") as handle:
        handle.write(second[20:])
    assert [row["step"] for row in log.read()] == [2]


def test_a_resumed_run_has_every_step_once_and_the_later_attempt_counts(tmp_path):
    first, second = tmp_path / "steps-0.jsonl", tmp_path / "steps-1.jsonl"
    first.write_text("".join(online(step, 0.1) for step in (1, 2, 3)) + online(4, 0.1)[:30])
    log = StepsLog([first])
    log.read()
    log.forget_after(2)  # step 2 was the last saved
    log.follow(second)
    second.write_text("".join(online(step, 0.9) for step in (3, 4)))
    log.read()
    rows = table(log, tmp_path / "log.csv")
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert [float(row["reward"]) for row in rows] == [0.1, 0.1, 0.9, 0.9]


def test_a_log_is_complete_up_to_the_first_step_that_is_missing(tmp_path):
    first, second = tmp_path / "steps-0.jsonl", tmp_path / "steps-1.jsonl"
    assert StepsLog([first]).complete_to == 0
    first.write_text("".join(online(step, 0.1) for step in (1, 2, 3, 4)))
    second.write_text(online(3, 0.9) + online(4, 0.9)[:30])  # it went on from step 2
    log = StepsLog([first, second])
    log.read()
    assert log.complete_to == 3
    first.write_text(online(1, 0.1) + online(3, 0.1))
    log = StepsLog([first])
    log.read()
    assert log.complete_to == 1


def test_columns_of_a_second_model_are_there_only_with_one(tmp_path):
    file = tmp_path / "steps.jsonl"
    measured = {"reward_model/loss": 0.6, "reward_model/accuracy": 0.75}
    file.write_text(line(1, **{"actor/loss": 0.1}) + line(2, **{"actor/loss": 0.1}, **measured))
    log = StepsLog([file])
    log.read()
    rows = table(log, tmp_path / "log.csv")
    assert list(rows[0]) == [*COLUMNS, "reward_model_loss", "reward_model_accuracy"]
    assert [row["reward_model_accuracy"] for row in rows] == ["", "0.75"]


def test_what_an_attempt_has_spent_is_told_apart(tmp_path):
    earlier, now = tmp_path / "steps-000.jsonl", tmp_path / "steps-001.jsonl"
    earlier.write_text(online(1, 0.25))
    log = StepsLog([earlier])
    log.read()
    assert log.seconds == {}  # of an attempt that has ended nothing counts
    log.follow(now)
    saved = json.loads(online(3, 0.5))
    saved["data"]["timing_s/validate"] = 0.25
    now.write_text(online(2, 0.5) + json.dumps(saved) + "\n")
    log.read()
    spent = log.seconds
    assert 0 <= spent.pop("start") < 60
    assert spent == {"steps": 3.0, "sampling": 2.0, "validation": 0.25}
    # Measured after the first step, it is no part of the start either.
    first, held = tmp_path / "steps-002.jsonl", {"loss": 0.1, "seconds": 2.0}
    first.write_text(line(1, **held, **{"validation/seconds": 3600.0}))
    log = StepsLog([])
    log.follow(first)
    log.read()
    assert log.seconds == {"start": 0.0, "steps": 2.0, "validation": 3600.0}
