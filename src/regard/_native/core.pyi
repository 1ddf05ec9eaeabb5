"""What `native/bind.cpp` offers."""

class Probe:
    """What this machine can run, and how this core was built."""

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

def probe() -> Probe:
    """Ask the processor: cheap, and safe on any machine."""
