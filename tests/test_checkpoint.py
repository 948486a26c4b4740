import os
import signal

import numpy as np
import pytest
import torch

from lungsyn import checkpoint
from lungsyn.errors import InputError
from lungsyn.optimizer import Muon
from lungsyn.processes import STOP_SIGNALS
from lungsyn.provenance import file_digest, model_facts


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


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_a_group_may_read_it_as_any_other_file_and_others_never(tmp_path, mask):
    before = os.umask(mask)
    try:
        checkpoint.save(tmp_path / "m", {"w": torch.ones(2)}, {})
        (tmp_path / "other").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "m").stat().st_mode == (tmp_path / "other").stat().st_mode & ~0o007


def test_a_turned_bit_is_noticed_wherever_it_is(tmp_path):
    """In weights, moments, step counts, aliases or the description: it is refused, or nothing has changed by it."""
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    step(model, optimizer, 0)
    state = checkpoint.training_state(model, optimizer, {"average": model.state_dict()})
    checkpoint.save(
        tmp_path / "c", state | {"half": torch.ones(3, dtype=torch.bfloat16)}, {"seconds": 1.5, "kind": "x"}
    )
    whole, about = checkpoint.load(tmp_path / "c")
    content, rng, refused = (tmp_path / "c").read_bytes(), np.random.default_rng(0), 0
    for _ in range(300):
        at = int(rng.integers(len(content)))
        turned = content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]
        (tmp_path / "d").write_bytes(turned)
        try:
            found, said = checkpoint.load(tmp_path / "d")
        except InputError as error:
            assert "d: not a model of lungsyn" in str(error) and "delete it" in str(error)
            refused += 1
        else:
            assert said == about and all(torch.equal(found[name], whole[name]) for name in whole)
    assert refused > 290


def test_a_damaged_checkpoint_ends_the_training_that_would_go_on_from_it(tmp_path, handlers):
    model, folder = network(), tmp_path / "training"
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    step(model, optimizer, 0)
    checkpoint.Restart(folder, model, optimizer, {}, {"steps": 1}, 60).save()
    checkpoint.Restart(folder, model, optimizer, {}, {"steps": 0}, 60)
    path = folder / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"checkpoint\.safetensors: .*damaged.*delete it and run the training again"):
        checkpoint.Restart(folder, model, optimizer, {}, {"steps": 0}, 60)


def test_a_model_s_digest_is_of_its_weights_and_settings_and_not_of_its_seconds(tmp_path):
    def digest_of(weight: float, channels: int, seconds: float) -> str:
        about = {"generator": {"channels": [channels]}, "cost": {"seconds": seconds}}
        checkpoint.save(tmp_path / "m.safetensors", {"w": torch.full((2,), weight)}, about)
        return file_digest(tmp_path / "m.safetensors")

    assert digest_of(1, 8, 2.5) == digest_of(1, 8, 3.5)
    assert len({digest_of(1, 8, 0), digest_of(2, 8, 0), digest_of(1, 16, 0)}) == 3


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"m\.safetensors: not a model of lungsyn .* run the training again"):
        checkpoint.load(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="not a model"):
        checkpoint.load(tmp_path / "nowhere")


def test_the_description_is_readable_without_torch(tmp_path):
    checkpoint.save(tmp_path / "m", {"w": torch.ones(2)}, {"cost": {"seconds": 1}})
    assert model_facts(tmp_path / "m") == {"cost": {"seconds": 1}}


def test_digest_depends_on_content_not_on_order():
    assert checkpoint.digest({"a": 1, "b": 2}) == checkpoint.digest({"b": 2, "a": 1})
    assert checkpoint.digest({"a": 1}) != checkpoint.digest({"a": 2})


def header(text: bytes, claimed: int | None = None) -> bytes:
    return (len(text) if claimed is None else claimed).to_bytes(8, "little") + text


NESTED = header(b'{"__metadata__": {"about": "' + b"[" * 100_000 + b'"}}')


@pytest.mark.parametrize(
    "content",
    [b"", b"x\n", b"\xff" * 16, header(b"[]"), header(b"{}"), header(b"{}", 2**40), header(b"{}", 2**62), NESTED,
     header(b"[" * 100_000), header(b'{"__metadata__": {"about": "3", "aliases": "{}"}}'),
     header(b'{"__metadata__": {"about": "{}"}, "w": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}')],
)  # fmt: skip
def test_a_file_that_is_no_model_is_named(tmp_path, content):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(InputError, match=r"m: not a model of lungsyn .*delete it"):
        checkpoint.load(tmp_path / "m")
    if b"data_offsets" not in content:  # of which the header alone is not asked
        with pytest.raises(InputError, match=r"m: not a model of lungsyn .*delete it"):
            model_facts(tmp_path / "m")


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
