"""Phase 2: many sandboxes print at the same time, read through the stock SDK. None may stall; every line must come."""

from collections.abc import Callable

from workbench.local_cloud import daemon
from workbench.soak import clouds, orphans
from workbench.soak.leftovers import Scene
from workbench.soak.sdk_client import STALL_S
from workbench.soak.soak_failures import SoakFailedError

_CREATE_S = 60.0
_CREATE_EACH_S = 2.0
_PATIENCE_S = 30.0


def run(scene: Scene, count: int, *, talk_s: float, advance: Callable[[], None]) -> dict[str, object]:
    """Read the output of `count` sandboxes for `talk_s` seconds, and return figures. Raises SoakFailedError."""
    before = scene.look()
    wrong, lines, longest_s = [], 0, 0.0
    with (
        clouds.private_state(scene) as state,
        clouds.client(scene.root, "crowd", str(count), str(talk_s)) as client,
    ):
        running, _ = clouds.start(state, scene)
        client.connect(running)
        client.hear(timeout_s=_CREATE_S + _CREATE_EACH_S * count)
        while told := client.hear(timeout_s=talk_s + 2 * STALL_S):
            lines += told["lines"]
            longest_s = max(longest_s, told["longest_silence_s"])
            if told["wrong"]:
                wrong.append(f"sandbox {told['sandbox']}: {told['wrong']}")
            advance()
        daemon.stop(state)
    orphans.reap()
    if wrong:
        raise SoakFailedError(f"{len(wrong)} of {count} sandboxes were not heard in full: {'; '.join(wrong[:3])}")
    scene.expect(before, f"{count} sandboxes at once", timeout_s=_PATIENCE_S)
    return {"lines": lines, "longest_silence_s": longest_s}
