"""Failure modes of streaming, brought about."""

from workbench.failures.experiments.basics import Experiment, late, lied, of_its_program, running, same, told

STREAMING: dict[str, Experiment] = {
    "output-without-newline": Experiment(
        act=running(
            "import sys, time\nfor n in range(20):\n"
            "    sys.stdout.write('\\r%d%%' % (n * 5)); sys.stdout.flush(); time.sleep(0.2)\n"
        ),
        harm=lambda seen: late(seen, of="nothing was shown while it ran"),
        broken=lambda seen: late(seen, of="the first of it was late"),
    ),
    "job-buffers-its-output": Experiment(
        act=running("import time\nfor n in range(20):\n    print('line', n); time.sleep(0.2)\n"),
        harm=lambda seen: late(seen, of="everything came at the end"),
        broken=lambda seen: late(seen, of="the first of it was late"),
    ),
    "stream-ended-without-exit-code": Experiment(
        act=running("import time\nfor n in range(10): print(n, flush=True); time.sleep(0.1)\n"),
        rules=of_its_program("TaskExecStdioRead", at="stream", after_messages=2, status="DATA_LOSS"),
        harm=lied("half of its output is missing"),
        broken=told("stream_lost", "sandbox_lost"),
    ),
    "idle-cut": Experiment(
        act=running("import time\ntime.sleep(14)\nprint('thought')\n"),
        rules=lambda side, project: ({"at": "web", "path": "/generate", "idle_cut_s": 12},),
        harm=lied("nothing was said of the cut"),
        broken=same("thought\n"),
    ),
}
