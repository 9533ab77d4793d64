"""The eligibility rules of PyTorch's own releases, each as a Profile and as the texts of its refusals (L4.1, L4.4).

The reference does not apply them. They say what a given torch does with a mod, and what its refusal says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from packaging.version import InvalidVersion, Version

from .eligibility import NO_MASKS, REQUIRES_GRAD, UNAVAILABLE, Profile

_INSTALL = (
    "Install a compatible Flash Attention package, for example `pip install --pre flash-attn-4` (`pip install --pre "
    '"flash-attn-4[cu13]"` for CUDA 13), and see https://pypi.org/project/flash-attn-4/ for PyPI packaging details.'
)
_DYNAMIC_SCALAR = (
    "NYI: score_mod or mask_mod captures a dynamic scalar (SymInt/SymFloat). The FLASH backend cannot inline symbolic "
    "values into the CuteDSL template. Workarounds: use BACKEND='TRITON', compile with dynamic=False, or pass the "
    "value as a tensor on device instead of capturing a Python scalar."
)
_CPU_SCALAR = (
    "NYI: score_mod or mask_mod captures a 0-dim CPU tensor scalar. Workarounds: use BACKEND='TRITON' or pass the "
    "value as a tensor on device instead of capturing a CPU scalar tensor."
)
_OLD_FLASH = f"CUTE flash attention scalar captures require flash-attn-4>=4.0.0b17. {_INSTALL}"


@dataclass(frozen=True)
class Rule:
    """One rule of a release: what it refuses, the reason that it gives, and where that text stands in torch's source.

    `source` is a file of torch/_inductor/kernel/flex and a line of it.
    """

    refuses: str
    reason: str
    source: str


@dataclass(frozen=True)
class Release:
    """A torch release (major.minor): its eligibility rules in order, and the same as a Profile.

    `read` is the version whose source was read. A rule that asks for something that a traced graph does not hold, such
    as where a captured number lives, is in `rules` but not in `profile`.
    """

    name: str
    read: str
    rules: tuple[Rule, ...]
    profile: Profile

    def rule_of(self, message: str) -> Rule | None:
        """The rule whose reason `message`, the text of torch's exception, gives. White space does not count."""
        said = " ".join(message.split())
        return next((rule for rule in self.rules if said.endswith(rule.reason)), None)


def _release(read: str, *rules: Rule, **profile: object) -> tuple[str, Release]:
    name = ".".join(read.split(".")[:2])
    of_torch = {"package": "flash_attn.cute", "mask_architectures": None, "corrected": False, **profile}
    return name, Release(name, read, rules, Profile(f"torch {name}", **of_torch))  # type: ignore[arg-type]


def _rules(unavailable: tuple[str, str], grad: str, scalar: tuple[str, str, str]) -> tuple[Rule, ...]:
    refuses, reason, where = scalar
    return (
        Rule(refuses, reason, where),
        Rule("flash-attn-4 is not installed", *unavailable),
        Rule("a capture of the score_mod requires grad", REQUIRES_GRAD, grad),
    )


_FLASH = "flex_flash_attention.py"
_LONG = f"{UNAVAILABLE}. {_INSTALL}"
_NO_DYNAMIC = "a captured number that is dynamic", _DYNAMIC_SCALAR
_NO_CPU = "a captured tensor without dimensions on the CPU", _CPU_SCALAR
_NO_OLD = Rule("a captured number that is dynamic, if flash-attn-4 is older than 4.0.0b17", _OLD_FLASH, f"{_FLASH}:512")

TORCH: Final[dict[str, Release]] = dict(
    (
        _release(
            "2.10.0",
            Rule("flash-attn-4 is not installed", UNAVAILABLE, f"{_FLASH}:186"),
            Rule("a capture of the score_mod requires grad", REQUIRES_GRAD, f"{_FLASH}:191"),
            Rule(
                "a mask_mod that is not constant, except on compute capability 9.x and 10.x", NO_MASKS, f"{_FLASH}:201"
            ),
            mask_architectures=frozenset({9, 10}),
            needs_full_lists=True,
        ),
        _release(
            "2.11.0",
            *_rules((UNAVAILABLE, f"{_FLASH}:236"), f"{_FLASH}:241", (*_NO_DYNAMIC, "flex_attention.py:174")),
            needs_full_lists=True,
        ),
        _release(
            "2.12.1",
            *_rules((UNAVAILABLE, f"{_FLASH}:274"), f"{_FLASH}:279", (*_NO_DYNAMIC, "flex_attention.py:176")),
            needs_full_lists=True,
        ),
        _release(
            "2.13.0",
            *_rules((_LONG, f"{_FLASH}:139"), f"{_FLASH}:349", (*_NO_DYNAMIC, "flex_attention.py:194")),
            needs_full_lists=True,
            unavailable=_LONG,
        ),
        _release(
            "2.14.1",
            *_rules((_LONG, f"{_FLASH}:154"), f"{_FLASH}:360", (*_NO_CPU, "flex_attention.py:113")),
            _NO_OLD,
            unavailable=_LONG,
        ),
        _release(
            "2.15.0",
            *_rules((_LONG, f"{_FLASH}:154"), f"{_FLASH}:360", (*_NO_CPU, "flex_attention.py:114")),
            _NO_OLD,
            unavailable=_LONG,
        ),
    )
)
"""The releases by name, "2.10" to "2.15"."""


def of(version: str) -> Release | None:
    """The release that `version`, such as "2.13.0+cu130", belongs to. Returns None if no profile of it is known."""
    try:
        parsed = Version(version)
    except InvalidVersion:
        return None
    return TORCH.get(f"{parsed.major}.{parsed.minor}")


def differs(message: str, version: str) -> str:
    """How a refusal of torch `version` by its eligibility rules differs from that release's profile.

    Returns "" if the reason in `message` is one of the profile's.
    """
    release = of(version)
    if release is None:
        return f"no eligibility profile of torch {version} is known"
    if release.rule_of(message) is not None:
        return ""
    known = "; ".join(rule.refuses for rule in release.rules)
    return f"the eligibility profile of torch {release.name} has no such reason; it refuses: {known}"
