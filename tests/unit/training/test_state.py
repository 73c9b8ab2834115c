import shutil

import pytest

torch = pytest.importorskip("torch")

from subnetworks.training.runtime import state  # noqa: E402

FACTS = {"settings": {"learning_rate": 1e-6}, "init": "abc"}


def save(folder, step, *, online=False, ranks=1):
    """A saved step as verl lays it out."""
    step_folder = folder / f"global_step_{step}"
    parts = step_folder / "actor" if online else step_folder
    parts.mkdir(parents=True)
    for rank in range(ranks):
        for kind in ("model", "optim", "extra_state"):
            torch.save({"x": torch.ones(9)}, parts / f"{kind}_world_size_{ranks}_rank_{rank}.pt")
    if online:
        torch.save({}, step_folder / "data.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text(str(step))
    return step_folder


def prepared(folder, facts=FACTS, logged=9):
    """The step from which a run of a log up to `logged` goes on."""
    state.prepare(folder, facts)
    return state.resume_from(folder, logged)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "state"
    assert prepared(path) == 0
    return path


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_last_whole_step_is_resumed(folder, online, ranks):
    for step in (2, 4):
        save(folder, step, online=online, ranks=ranks)
    assert prepared(folder) == 4


@pytest.mark.parametrize("beside", ["critic", "reward_model"])
def test_a_step_is_whole_with_every_model_it_was_saved_with(folder, beside):
    for step in (2, 4):
        place = save(folder, step, online=True)
        shutil.copytree(place / "actor", place / beside)
    assert state.whole(place)
    _cut(place / beside / "optim_world_size_1_rank_0.pt")
    assert not state.whole(place)
    assert prepared(folder) == 2


def _cut(file):
    file.write_bytes(file.read_bytes()[:-40])


@pytest.mark.parametrize(
    "tear",
    [
        lambda step: _cut(step / "actor/model_world_size_1_rank_0.pt"),
        lambda step: _cut(step / "actor/optim_world_size_1_rank_0.pt"),
        lambda step: (step / "actor/extra_state_world_size_1_rank_0.pt").unlink(),
        lambda step: (step / "data.pt").unlink(),
        lambda step: (step / "data.pt").write_bytes(b""),
    ],
)
def test_a_torn_step_is_removed_and_the_one_before_resumed(folder, tear):
    save(folder, 2, online=True)
    torn = save(folder, 4, online=True)
    tear(torn)
    assert prepared(folder) == 2
    assert not torn.exists()
    assert (folder / "latest_checkpointed_iteration.txt").read_text() == "2"


def test_a_saved_step_that_was_not_logged_is_removed_too(folder):
    for step in (2, 4):
        save(folder, step)
    assert prepared(folder, logged=4) == 4
    assert prepared(folder, logged=3) == 2
    assert set(state.saved_steps(folder)) == {2}
    assert (folder / "latest_checkpointed_iteration.txt").read_text() == "2"
    assert prepared(folder, logged=1) == 0


def test_an_empty_tracker_hides_nothing(folder):
    save(folder, 2)
    (folder / "latest_checkpointed_iteration.txt").write_text("")
    assert prepared(folder) == 2


def test_a_lost_rank_makes_a_step_useless(folder):
    save(folder, 2, ranks=2)
    (folder / "global_step_2/model_world_size_2_rank_1.pt").unlink()
    assert prepared(folder) == 0


def test_another_runs_state_is_never_resumed(folder):
    save(folder, 2)
    assert prepared(folder, {**FACTS, "init": "another"}) == 0
    assert state.saved_steps(folder) == {}
