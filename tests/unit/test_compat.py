"""Each private API of torch and transformers that regard uses, by its function in `integrations.compat`.

A failure here says which one a new version changed: the function's place is the only one to adapt.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import masking_utils

from regard.integrations.compat import torch_internals, transformers_internals

SOURCE = Path(__file__).parents[2] / "src/regard"
PRIVATE = re.compile(
    r"torch\._(?!_)|_C\._|_dynamo|_current_level|_functorch|_autograd_keyset|_graph_task_id|_dispatch_stack"
    r"|_function_mode_stack|_attn_implementation_internal|\._attn_implementation\b|_active_collector|co_freevars"
)


def test_private_names_are_used_in_compat_only() -> None:
    lines = [
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path.parent.name != "compat"
        for line in path.read_text(encoding="utf-8").splitlines()
        if PRIVATE.search(line)
    ]
    assert lines == []


def test_functorch_active_is_of_transforms_alone() -> None:
    inside: list[bool] = []

    def function(x: torch.Tensor) -> torch.Tensor:
        inside.append(torch_internals.functorch_active())
        return x.sum()

    torch.vmap(function)(torch.ones(2, 3))
    torch.func.grad(function)(torch.ones(3))
    assert inside == [True, True], "torch._C._are_functorch_transforms_active"
    assert not torch_internals.functorch_active()


def test_forward_mode_active_is_of_dual_levels_alone() -> None:
    assert not torch_internals.forward_mode_active(), "forward_ad._current_level"
    with forward_ad.dual_level():
        assert torch_internals.forward_mode_active(), "forward_ad._current_level"


def test_in_backward_is_of_backward_passes_alone() -> None:
    inside: list[bool] = []
    x = torch.ones(2, requires_grad=True)
    x.register_hook(lambda grad: inside.append(torch_internals.in_backward()))
    x.sum().backward()
    assert inside == [True], "torch._C._current_graph_task_id"
    assert not torch_internals.in_backward()


def test_in_dispatch_mode_is_of_dispatch_modes_alone() -> None:
    assert not torch_internals.in_dispatch_mode(), "torch._C._len_torch_dispatch_stack"
    with FlopCounterMode(display=False):
        assert torch_internals.in_dispatch_mode(), "torch._C._len_torch_dispatch_stack"


def test_function_modes_are_those_of_this_thread() -> None:
    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    outer, inner = Mode(), Mode()
    with outer, inner:
        assert list(torch_internals.function_modes()) == [outer, inner], "_get_current_function_mode_stack"
    assert not torch_internals.function_modes()


def test_below_autograd_are_keys_without_autograds() -> None:
    keys = torch.ones(2, requires_grad=True)
    core: Any = torch._C
    below = torch_internals.below_autograd(core._dispatch_keys(keys))
    assert below.has(core.DispatchKey.CPU), "torch._C._after_autograd_keyset"
    assert not below.has(core.DispatchKey.AutogradCPU), "torch._C._after_autograd_keyset"


def test_excluding_from_graphs_does_not_import_dynamo() -> None:
    code = (
        "from regard.integrations.compat import torch_internals as t\n"
        "function = t.exclude_from_graphs(lambda x: x + 1)\n"
        "assert not t.dynamo_imported(), 'torch._compile._disable_dynamo imports Dynamo before it is called'\n"
        "assert function(1) == 2\n"
        "import torch._dynamo\n"
        "assert t.dynamo_imported()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_place_of_need_weights() -> None:
    parameters = list(inspect.signature(F.multi_head_attention_forward).parameters)
    assert parameters[torch_internals.NEED_WEIGHTS] == "need_weights", "F.multi_head_attention_forward"


def test_a_copy_without_function_modes_shows_them_what_it_calls() -> None:
    called: list[Any] = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.append(func)
            return func(*args, **(kwargs or {}))

    layer = nn.MultiheadAttention(4, 2)
    function = torch_internals.without_function_modes(F.multi_head_attention_forward)
    x = torch.randn(3, 1, 4)
    weights = (
        layer.in_proj_weight,
        layer.in_proj_bias,
        None,
        None,
        False,
        0.0,
        layer.out_proj.weight,
        layer.out_proj.bias,
    )
    with Mode():
        function(x, x, x, 4, 2, *weights, need_weights=False)
    assert F.scaled_dot_product_attention in called, "has_torch_function in F.multi_head_attention_forward"
    assert F.multi_head_attention_forward not in called


def tiny() -> Any:
    config: Any = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=10, n_positions=8)
    return transformers.GPT2Model(config).eval()


def test_attention_implementations_come_back() -> None:
    model = tiny()
    model.set_attn_implementation("eager")
    before = transformers_internals.attention_implementations(model)
    assert [name for _, name in before] == ["eager"], "config._attn_implementation"
    model.set_attn_implementation("sdpa")
    transformers_internals.restore_attention_implementations(before)
    assert model.config._attn_implementation == "eager", "config._attn_implementation_internal"


def test_collected_attentions_are_known_in_layers() -> None:
    model, inside = tiny(), list[bool]()
    model.set_attn_implementation("eager")
    model.h[0].attn.register_forward_pre_hook(
        lambda module, args: inside.append(transformers_internals.attentions_collected())
    )
    ids = torch.zeros(1, 3, dtype=torch.long)
    model(ids)
    model(ids, output_attentions=True)
    assert inside == [False, True], "transformers.utils.output_capturing._active_collector"


def test_mask_functions_have_their_names_and_closures() -> None:
    closure = transformers_internals.mask_function_closure
    assert closure(lambda b, h, q, k: q >= k) == ("", {})
    window: Any = masking_utils.sliding_window_overlay(4)
    assert closure(window) == ("sliding_window_overlay.<locals>.inner_mask", {"sliding_window": 4})
    both: Any = masking_utils.and_masks(window, masking_utils.causal_mask_function)
    name, cells = closure(both)
    assert name == "and_masks.<locals>.and_mask"
    assert list(cells["mask_functions"]) == [window, masking_utils.causal_mask_function]
    chunks: Any = masking_utils.chunked_overlay(4, torch.tensor([0]))
    assert set(closure(chunks)[1]) == {"chunk_size", "left_padding"}
    packed: Any = masking_utils.packed_sequence_mask_function(torch.zeros(1, 3))
    assert set(closure(packed)[1]) == {"packed_sequence_mask"}
