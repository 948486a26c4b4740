import pytest
import torch

from lungsyn.optimizer import MOMENTUM, Muon, orthogonal


@pytest.mark.parametrize("shape", [(24, 200), (200, 24), (32, 32)])
def test_a_matrix_is_made_orthogonal_in_its_own_directions(shape):
    """Against the singular value decomposition: the same directions, all of nearly the same length. Beside a matrix of
    another size that is done with it."""
    torch.manual_seed(0)
    u, s, vt = torch.linalg.svd(torch.randn(shape) @ torch.diag(torch.logspace(0, -1.5, shape[1])), full_matrices=False)
    kept = s > 0.05 * s[0]  # shorter ones are still on their way up after five iterations
    made = orthogonal(torch.stack([u * s @ vt, 1e3 * torch.randn(shape)]))[0]
    lengths = torch.einsum("mr,mn,rn->r", u, made, vt)
    assert lengths[kept].min() > 0.6
    assert lengths[kept].max() < 1.25
    across = u.T @ made @ vt.T - torch.diag(lengths)
    assert across.abs().max() < 1e-4


def test_a_matrix_of_zeros_stays():
    assert torch.equal(orthogonal(torch.zeros(1, 16, 20)), torch.zeros(1, 16, 20))


def test_convolutions_move_as_torch_s_muon_moves_their_matrix():
    torch.manual_seed(0)
    conv = torch.nn.Conv3d(16, 16, 3, bias=False).to(memory_format=torch.channels_last_3d)
    matrix = torch.nn.Parameter(conv.weight.detach().clone().flatten(1))
    start = matrix.detach().clone()
    ours = Muon(conv.parameters(), 0.01)
    peer = torch.optim.Muon(
        [matrix], lr=0.01, momentum=MOMENTUM, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
    )  # in bfloat16
    for _ in range(5):
        matrix.grad = torch.randn_like(matrix)
        conv.weight.grad = matrix.grad.reshape(conv.weight.shape).clone()
        ours.step()
        peer.step()
    moved = conv.weight.detach().flatten(1) - start
    assert (moved - (matrix.detach() - start)).norm() < 0.02 * moved.norm()
    assert moved.square().mean().sqrt() > 0.002


def test_everything_else_moves_as_adamw_moves_it():
    """Vectors, linear layers, and input and output layers, transposed ones too."""
    torch.manual_seed(0)
    ours, peer = (
        torch.nn.ModuleList(
            [torch.nn.Linear(30, 30), torch.nn.LayerNorm(5), torch.nn.Conv3d(1, 16, 3), torch.nn.Conv3d(16, 1, 3),
             torch.nn.ConvTranspose3d(16, 1, 3)]
        ) for _ in range(2)
    )  # fmt: skip
    peer.load_state_dict(ours.state_dict())
    optimizers = Muon(ours.parameters(), 0.01), torch.optim.AdamW(peer.parameters(), lr=0.01)
    for _ in range(3):
        for a, b in zip(ours.parameters(), peer.parameters(), strict=True):
            a.grad = b.grad = torch.randn_like(a)
        for optimizer in optimizers:
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), peer.parameters(), strict=True))
