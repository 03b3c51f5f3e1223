"""Process 1 of RUN steps and of function containers: starts the one program, reaps what it leaves, and ends with it.

Runs under the host's own Python with nothing but its standard library. Bubblewrap would be process 1 otherwise, which
has no filter of system calls, and which programs of the same user could make do what they may not do themselves.

Its arguments are the number of a descriptor that holds the program's environment by `marshal`, and the program's words.
Each program waits for what is imported here: json and signal would take as long as everything else.
"""

import _signal  # type: ignore[import-not-found]  # of every Python, beneath signal
import ctypes
import marshal
import os
import resource
import struct
import sys
import warnings  # noqa: F401  # of `os.execvpe`

MOST_FILES = 32_768  # that the program may have open, and half of what this process may: as in sandboxes
PR_SET_DUMPABLE, PR_CAPBSET_DROP = 4, 24
CAPABILITY_VERSION = 0x20080522
LIBC = ctypes.CDLL(None)


def main() -> int:
    """Run the program to its end, and return its exit code."""
    LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # nobody looks into this process
    keep_to_what_we_have()
    for number in (_signal.SIGINT, _signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)  # the kernel keeps those from process 1 that have no handler
    sys.meta_path.clear()  # nothing is imported from here on: guests may put other files in the place of Python's
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        env = dict(marshal.loads(file.read()))  # noqa: S302  # ours
    os.closerange(3, 1024)  # bubblewrap leaves descriptors open
    child = os.fork()
    if child == 0:
        become(sys.argv[2:], env)
    os.closerange(0, 3)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def keep_to_what_we_have() -> None:
    """Let the program not inherit a capability as another user, nor gain one that we have not."""
    header = struct.pack("Ii", CAPABILITY_VERSION, 0)
    data = ctypes.create_string_buffer(24)  # two times 32 bits of what is effective, permitted and inheritable
    LIBC.capget(header, data)
    words = struct.unpack("6I", data.raw)
    LIBC.capset(header, struct.pack("6I", words[0], words[1], 0, words[3], words[4], 0))
    permitted = words[1] | words[4] << 32
    for number in range(64):
        if not permitted >> number & 1:
            LIBC.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)


def become(words: "list[str]", env: "dict[bytes, bytes]") -> None:
    """Become the program, in the forked child; never returns."""
    code = 127
    try:
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = MOST_FILES if files == resource.RLIM_INFINITY else min(files // 2, MOST_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        os.execvpe(words[0], words, env)  # noqa: S606  # no shell is the point
    except OSError as error:
        code = 127 if isinstance(error, FileNotFoundError) else 126
        os.write(2, f"{words[0]}: {error.strerror}\n".encode("utf-8", "replace"))
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
