"""What `native/bind.cpp` offers."""

class SystemInfo:
    """The instruction sets of this machine, and how this core was built."""

    @property
    def version(self) -> str:
        """The version of regard that this core was built for."""

    @property
    def compiler(self) -> str:
        """Its name and version, such as "GNU 12.2.0"."""

    @property
    def flags(self) -> str:
        """The flags common to every file of the core."""

    @property
    def architecture(self) -> str:
        """One of "x86-64", "x86", "arm64" and "other"."""

    @property
    def standard(self) -> int:
        """The C++ standard: 202002 is C++20."""

    @property
    def threads(self) -> int:
        """Hardware threads; 0 where the system does not say."""

    @property
    def isas(self) -> tuple[str, ...]:
        """Instruction sets that this machine can run, best first; "portable" is always the last."""

    @property
    def known(self) -> tuple[str, ...]:
        """Instruction sets that this core looks for, best first."""

def system_info() -> SystemInfo:
    """Query the processor: cheap, and safe on any machine."""

View = tuple[int, int, int, int, int]
"""A tensor (batch, heads, sequence, head size): its address, four strides in elements, 0 where shared."""

class Call:
    """One attention call: `native/kernel.h` says what each part means. Addresses are not kept alive."""

    def __init__(
        self,
        dtype: int,  # 0 float32, 1 bfloat16, 2 float16
        sizes: tuple[int, int, int, int, int, int, int],  # b, h, g, q, k, d, dv
        query: View,
        key: View,
        value: View,
        scale: float,
        softcap: float = 0.0,
    ) -> None: ...
    @property
    def unit(self) -> float:
        """What the kernels multiply a score with to have it in units of log 2."""
    def set_sigmoid(self, shift: float) -> None: ...
    def set_sink(self, address: int) -> None: ...
    def set_spans(self, address: int, count: int, stride_b: int, stride_h: int) -> None: ...
    def set_tiles(self, address: int, stride_b: int, stride_h: int, bitmaps: int) -> None: ...
    def set_table(self, address: int, stride_h: int) -> None: ...
    def set_bias(self, view: View, dtype: int) -> None: ...
    def set_dropout(self, seed: int, threshold: int, scale: float) -> None: ...
    def set_non_finite(self, query: int, key: int) -> None: ...

class Statistics:
    """Statistics of the weights to compute besides the output, or their gradients, as in `native/kernel.h`."""

    def __init__(self) -> None: ...
    def set_entropy(self, address: int) -> None: ...
    def set_max_score(self, address: int) -> None: ...
    def set_top_keys(self, count: int, keys: int, weights: int) -> None: ...
    def set_distances(self, offsets: tuple[int, ...], address: int) -> None: ...
    def set_bands(self, bands: tuple[tuple[int, int], ...], address: int) -> None: ...
    def set_key_sets(
        self, range_count: int, ranges: int, set_starts: int, set_members: int, set_count: int, address: int
    ) -> None: ...
    def set_received_gradient(self, group_count: int, group_of_query: int, received_grad: int, sums: int) -> None: ...

class SecondPass:
    """What a second pass over a rectangle of the weights computes."""

    def __init__(self, top: int, share: int, box: tuple[int, ...]) -> None:
        """`box` is from and to: of b, h, queries and keys."""
    def set_weights(self, address: int) -> None: ...
    def set_received(self, group_count: int, group_of_query: int, address: int) -> None: ...
    def add_pooling(self, rows: int, cols: int, maximum: bool, address: int) -> None: ...

def second_pass(call: Call, request: SecondPass, threads: int) -> None:
    """Recompute weights from queries, keys and what a forward pass left of each row."""

def forward(call: Call, out: View, lse: int, statistics: Statistics | None, threads: int) -> bool:
    """Run a forward pass. False where q, k or v may hold a number that is not finite: then what was written
    counts for nothing. With `set_non_finite` the numbers are not checked.

    `lse` is the address of (3, b, h, q) float32, or 0. KeyboardInterrupt and MemoryError may be raised.
    """

def backward(
    call: Call,
    out: View,
    out_grad: View,
    lse: int,
    lse_grad: int,
    delta: int,
    query_grad: View,
    key_grad: View,
    value_grad: View,
    table_grad: int,
    bias_grad: View | None,
    statistics: Statistics | None,
    threads: int,
) -> None:
    """Run a backward pass. `lse` is what the forward pass left, `delta` memory for (b, h, q) float32; 0 for
    `lse_grad` or `table_grad`, or None: it is not given, or not requested."""

def isa() -> str:
    """The instruction set whose kernels run: the best of this machine, or the one that REGARD_ISA names."""

def use(isa: str) -> None:
    """Run the kernels of another instruction set. ValueError where it is not one of `kernels()`."""

def kernels() -> tuple[str, ...]:
    """The instruction sets that this core has kernels for and this machine can run, best first."""

def fma_peak(threads: int, dtype: int, seconds: float) -> float:
    """Multiplications and additions per second that the kernels' instructions reach on registers alone."""

def read_bandwidth(threads: int, size: int, seconds: float) -> float:
    """Bytes per second that a plain sum reads from an array of so many bytes."""
