"""What keeps the promises: each hardening of the endpoint, where it stands, and which failure modes it serves.

A mode that is served by several needs all of them, and one hardening serves several modes. The tests switch each one
off, in a copy of the endpoint, and hold that exactly the modes that it serves are no longer kept.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hardening:
    """One hardening: what it does in a sentence, the modules of the endpoint that do it, the modes that it serves."""

    name: str
    says: str
    where: tuple[str, ...]
    serves: frozenset[str]


def _row(name: str, says: str, where: str, serves: str) -> tuple[str, Hardening]:
    return name, Hardening(name, says, tuple(where.split()), frozenset(serves.split()))


HARDENINGS: dict[str, Hardening] = dict(
    (
        _row(
            "headers-at-once",
            "Headers and a first event are sent before any sandbox is asked for.",
            "modal_app/stream.py",
            "303-after-150s cold-start-over-budget",
        ),
        _row(
            "no-buffering-header",
            "A header tells proxies not to hold the stream back.",
            "modal_app/contract/sse.py",
            "buffering-hop",
        ),
        _row(
            "cache-header",
            "A header forbids proxies to keep an answer for the next caller, and to compress a stream.",
            "modal_app/contract/sse.py",
            "proxy-compression wrong-stream-headers",
        ),
        _row(
            "heartbeat",
            "A stream on which nothing happens has a comment every few seconds.",
            "modal_app/stream.py",
            "idle-cut",
        ),
        _row(
            "output-by-time",
            "Output is passed on after a moment, whether its line has ended or not.",
            "modal_app/sandboxes/output_chunks.py",
            "output-without-newline",
        ),
        _row(
            "bounded-events",
            "A long line is cut into events of a bounded size.",
            "modal_app/sandboxes/output_chunks.py modal_app/contract/sse.py",
            "line-too-long",
        ),
        _row(
            "unbuffered-jobs",
            "Programs are started so that what they print is not held back in them.",
            "modal_app/actions/python_action.py modal_app/sandboxes/project_sandbox.py",
            "job-buffers-its-output",
        ),
        _row(
            "numbered-events",
            "A reader that comes back gets the events behind the last one that it has.",
            "modal_app/stream.py",
            "container-preempted reader-returns upstream-times-out-first",
        ),
        _row(
            "run-without-connection",
            "A run belongs to no connection: a reader that breaks off has time to come back.",
            "modal_app/runs/readers.py",
            "container-preempted reader-returns upstream-times-out-first",
        ),
        _row(
            "cancel-without-readers",
            "A run that nobody reads any more is cancelled after a grace.",
            "modal_app/runs/readers.py",
            "reader-gone",
        ),
        _row(
            "events-outlive-the-container",
            "Records and events of runs are kept outside of the container, and every other one can read them.",
            "modal_app/runs/log.py modal_app/runs/following.py",
            "cloud-restarted container-preempted deploy-under-a-run duplicate-submit",
        ),
        _row(
            "runs-end-before-their-container",
            "A container that is told to end lets its runs go on for a while.",
            "modal_app/runs/supervisor.py",
            "container-preempted",
        ),
        _row(
            "terminated-on-every-path",
            "Whoever has created a sandbox sees it end, however the run ends.",
            "modal_app/sandboxes/fleet.py",
            "reader-gone",
        ),
        _row(
            "sandbox-hears-its-run",
            "A sandbox that does not hear from its run ends, and a sweep ends what belongs to no living run.",
            "modal_app/sandboxes/fleet.py modal_app/runs/sweeper.py",
            "leaked-sandbox",
        ),
        _row(
            "one-key-one-run",
            "A repeated request finds the run of the first one by its key.",
            "modal_app/web.py modal_app/runs/run_records.py",
            "duplicate-submit",
        ),
        _row(
            "exit-code-seen",
            "A job is done only when its exit code was seen: what breaks off is told as lost.",
            "modal_app/sandboxes/project_sandbox.py",
            "dies-mid-run out-of-memory stream-ended-without-exit-code volume-full",
        ),
        _row(
            "output-read-on",
            "A job's output is read on where it broke off, over an outage of a minute, while its sandbox lives.",
            "modal_app/sandboxes/outages.py",
            "platform-away-40s",
        ),
        _row(
            "memory-told-apart",
            "A sandbox that was ended for its memory is told apart from one that was lost.",
            "modal_app/sandboxes/project_sandbox.py",
            "out-of-memory",
        ),
        _row(
            "own-clock",
            "A process that is ended for its time is told as that, by the endpoint's own clock.",
            "modal_app/sandboxes/project_sandbox.py",
            "fork-bomb process-timeout",
        ),
        _row(
            "another-sandbox",
            "A sandbox that runs no command is replaced before anything of the job has run.",
            "modal_app/runs/run_execution.py",
            "dead-before-first-command",
        ),
        _row(
            "creation-told",
            "A sandbox that is refused is told by a name, and with its cause.",
            "modal_app/sandboxes/fleet.py",
            "create-fails",
        ),
        _row(
            "commit-before-the-end",
            "A run asks for the commit of its files itself, and looks at what comes of it.",
            "modal_app/runs/run_execution.py",
            "commit-acknowledged-and-lost commit-fails dies-in-commit name-cannot-be-committed",
        ),
        _row(
            "end-told-last",
            "The end is told when the files are committed and the sandbox has ended, and not before.",
            "modal_app/runs/run_execution.py modal_app/sandboxes/fleet.py",
            "commit-acknowledged-and-lost commit-fails dies-in-commit missing-commit name-cannot-be-committed",
        ),
        _row(
            "read-back",
            "What was committed is read back from outside of the sandbox.",
            "modal_app/sandboxes/read_back.py",
            "commit-acknowledged-and-lost",
        ),
        _row(
            "one-writer",
            "One run at a time holds a project.",
            "modal_app/runs/leases.py",
            "two-writers",
        ),
        _row(
            "git-locks-cleared",
            "Locks that a killed git has left are removed before a job starts.",
            "modal_app/sandboxes/guest/stale_locks.py",
            "stale-git-lock",
        ),
        _row(
            "git-settings-off",
            "Git commands of the endpoint read no settings of the repository.",
            "modal_app/actions/git_command.py",
            "planted-config",
        ),
        _row(
            "limits-in-order",
            "Deadlines that do not fit into each other are refused when they are deployed.",
            "modal_app/endpoint_settings.py",
            "sandbox-times-out-first",
        ),
        _row(
            "limit-of-a-request",
            "A request cannot ask for more time than there is.",
            "modal_app/contract/fields.py modal_app/runs/run_service.py",
            "24h-limit",
        ),
        _row(
            "ids-checked",
            "Ids of users and projects are UUIDs, checked before anything is created.",
            "modal_app/contract/fields.py",
            "path-traversal",
        ),
        _row(
            "tenants-apart",
            "Another user's run does not exist.",
            "modal_app/runs/run_service.py",
            "another-tenants-run",
        ),
        _row(
            "no-network",
            "Sandboxes have no network, and those of the model one host.",
            "modal_app/sandboxes/fleet.py",
            "egress",
        ),
        _row(
            "no-secret-inside",
            "Nothing secret is in the environment of a sandbox.",
            "modal_app/sandboxes/project_sandbox.py",
            "secret-probed-from-inside",
        ),
        _row(
            "secret-required",
            "An endpoint without a secret does not start.",
            "modal_app/endpoint_settings.py",
            "secret-missing",
        ),
        _row(
            "secret-compared",
            "Who shows another secret than the endpoint's is refused.",
            "modal_app/endpoint_settings.py",
            "secret-wrong",
        ),
        _row(
            "overlap-of-secrets",
            "The secret before is accepted beside the new one, until the next rotation.",
            "modal_app/endpoint_settings.py",
            "secret-rotated",
        ),
        _row(
            "words-taken-back",
            "Words of an answer that broke off are named by what stands in their place.",
            "modal_app/actions/claude_speaker.py modal_app/actions/claude_stream.py",
            "model-stream-truncated",
        ),
        _row(
            "results-judged",
            "An answer of the CLI counts only when no error is in it, whatever its exit code and its text say.",
            "modal_app/actions/claude_verdict.py",
            "error-dressed-as-success full-context-resume model-429 model-500 model-529 model-hangs-before-headers "
            "model-hangs-mid-stream model-refusal stall",
        ),
        _row(
            "model-errors-told-apart",
            "What the model's service refused, and the model itself, have names of their own.",
            "modal_app/actions/claude_verdict.py",
            "full-context-resume model-429 model-529 model-refusal",
        ),
        _row(
            "repetitions-told",
            "Each repetition of a request to the model is told, with its cause and its wait.",
            "modal_app/actions/claude_retries.py modal_app/actions/claude_action.py",
            "model-429 model-500 model-529",
        ),
        _row(
            "repetitions-counted",
            "A request to the model is repeated twice at most; of an overloaded one the CLI itself asks no more often.",
            "modal_app/actions/claude_command.py",
            "model-429 model-500 model-hangs-before-headers",
        ),
        _row(
            "session-told",
            "The end of a failed job of the model names the session that can be resumed.",
            "modal_app/actions/claude_action.py",
            "model-429 model-500 model-529",
        ),
        _row(
            "waits-for-the-model-bounded",
            "A model that does not begin its answer, or does not go on with it, is given up within a minute.",
            "modal_app/actions/claude_command.py modal_app/model_gateway/upstream.py",
            "model-hangs-before-headers model-hangs-mid-stream",
        ),
        _row(
            "broken-calls-end-the-run",
            "A call of a tool whose input is not whole ends the run, and is neither repaired nor run.",
            "modal_app/actions/claude_verdict.py",
            "tool-json-invalid",
        ),
        _row(
            "denials-seen",
            "A job that was not permitted to use its tools is not done.",
            "modal_app/actions/claude_verdict.py",
            "permission-denied",
        ),
        _row(
            "stdin-closed",
            "The input of every program is closed, also when there is nothing to write.",
            "modal_app/sandboxes/project_sandbox.py",
            "stdin-left-open",
        ),
    )
)


ABSENT: dict[str, str] = {
    "volume-busy": "No function of the endpoint mounts the volume of projects, so none reloads it.",
}
"""Modes that are kept because something is not there: there is nothing that could be switched off."""


def serving(mode: str) -> list[Hardening]:
    """The hardenings that a failure mode needs, in the order of the table."""
    return [one for one in HARDENINGS.values() if mode in one.serves]
