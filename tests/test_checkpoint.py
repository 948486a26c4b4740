import os
import signal

import pytest
import torch

from lungsyn import checkpoint
from lungsyn.errors import InputError
from lungsyn.optimizer import Muon
from lungsyn.processes import STOP_SIGNALS


def network():
    return torch.nn.Sequential(torch.nn.Conv3d(2, 16, 3), torch.nn.Conv3d(16, 16, 3), torch.nn.Conv3d(16, 1, 1)).to(
        memory_format=torch.channels_last_3d
    )


def step(model, optimizer, seed):
    x = torch.randn(1, 2, 7, 7, 7, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("optimizer_of", [torch.optim.AdamW, Muon])
def test_training_goes_on_exactly(tmp_path, optimizer_of, fused):
    """Fused optimisers walk through memory: moments must come back in the weights' memory order (channels last)."""
    torch.manual_seed(0)
    model = network()
    optimizer = optimizer_of(model.parameters(), 1e-3, fused=fused)
    for seed in range(3):
        step(model, optimizer, seed)
    average = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = checkpoint.training_state(model, optimizer, {"average": average})
    checkpoint.save(tmp_path / "c", state, {"done": 3})
    for seed in range(3, 6):
        step(model, optimizer, seed)

    other = network()
    other_optimizer = optimizer_of(other.parameters(), 1e-3, fused=fused)
    other_average = {name: torch.zeros_like(tensor) for name, tensor in average.items()}
    state, about = checkpoint.load(tmp_path / "c")
    checkpoint.restore(state, other, other_optimizer, {"average": other_average})
    for seed in range(3, 6):
        step(other, other_optimizer, seed)
    assert about == {"done": 3}
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(average[name], other_average[name]) for name in average)


def test_shared_tensors_are_written_once_and_come_back_under_both_names(tmp_path):
    weight = torch.randn(1000)
    checkpoint.save(tmp_path / "m", {"a": weight, "b": weight}, {})
    assert (tmp_path / "m").stat().st_size < 1.5 * 4000
    tensors, _ = checkpoint.load(tmp_path / "m")
    assert torch.equal(tensors["a"], weight)
    assert torch.equal(tensors["b"], weight)


def test_others_may_read_it_as_any_other_file(tmp_path):
    checkpoint.save(tmp_path / "m", {"w": torch.ones(2)}, {})
    (tmp_path / "other").touch()
    assert (tmp_path / "m").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"m\.safetensors: not a model of lungsyn .* run the training again"):
        checkpoint.load(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="not a model"):
        checkpoint.load(tmp_path / "nowhere")


def test_the_description_is_readable_without_torch(tmp_path):
    from lungsyn.provenance import model_facts

    checkpoint.save(tmp_path / "m", {"w": torch.ones(2)}, {"cost": {"seconds": 1}})
    assert model_facts(tmp_path / "m") == {"cost": {"seconds": 1}}


def test_digest_depends_on_content_not_on_order():
    assert checkpoint.digest({"a": 1, "b": 2}) == checkpoint.digest({"b": 2, "a": 1})
    assert checkpoint.digest({"a": 1}) != checkpoint.digest({"a": 2})


@pytest.mark.parametrize("content", [b"", b"x\n", b"\xff" * 16, b"\x02\0\0\0\0\0\0\0[]", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_file_that_is_no_model_is_named(tmp_path, content):
    from lungsyn.provenance import model_facts

    (tmp_path / "m").write_bytes(content)
    for read in (checkpoint.load, model_facts):
        with pytest.raises(InputError, match=r"m: not a model of lungsyn .*delete it"):
            read(tmp_path / "m")


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_ctrl_c_lets_the_step_end_and_a_second_one_does_not(handlers, capsys):
    """Ctrl-C reaches the training itself, and what it had not saved was lost."""
    stop = checkpoint.StopRequest()
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.received == signal.SIGINT
    with pytest.raises(SystemExit) as ended:
        stop.leave("3 of 9 steps are saved")
    assert ended.value.code == 128 + signal.SIGINT
    assert "stopped by SIGINT: 3 of 9 steps are saved; the same command goes on" in capsys.readouterr().out
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
