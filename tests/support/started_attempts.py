"""The same attempts from RUN steps and from function containers, all of them in one such program, one after the other.

These have this machine's network: what that means is left out here.
"""

import json
from collections.abc import Mapping

from tests.support import attempts, rooted_attempts

_SHARED_NETWORK = ("reach the host's loopback", "reach an abstract socket of the host", "reach the internet")
_OF_SANDBOXES = (
    "read other processes' environment",  # of the program that makes all attempts
    "write to what is the host's",  # at the places that it has in sandboxes
    "replace the agent",
    "raise its own limits",
)
ATTEMPT_S = 20
_OWN: dict[str, str] = {
    "write to what the host has bound": """
        bound = ['/etc/resolv.conf', '/etc/hosts']
        for line in open('/proc/self/mountinfo'):
            if line.split()[4].startswith(('/run/modal', '/root', '/tmp/', '/home', '/opt', '/__modal')):
                bound.append(line.split()[4])  # a function's code and arguments, and the cloud's own Python
        inner = [os.path.join(top, name) for top in bound if os.path.isdir(top) for name in ('x', *os.listdir(top))]
        for path in (*bound, *inner, '/dev/x', '/proc/x'):
            if os.path.isdir(path) or os.path.islink(path): continue  # a link leads to the guest's own file
            try: open(path, 'a').write('x')
            except OSError: continue
            escaped(path)
        for path in (*bound, '/proc', '/dev'):
            for change in (lambda: os.unlink(path), lambda: os.rename(path, '/y'), lambda: os.chmod(path, 0o777),
                           lambda: os.chown(path, 1, 1), lambda: os.setxattr(path, 'user.x', b'x')):
                try: change()
                except OSError: continue
                escaped(path)
        """,
    "see more of the host than is bound": """
        import stat
        devices = {os.stat(path).st_dev for path in ('/etc/resolv.conf', '/etc/hosts')}
        bound = [line.split()[4] for line in open('/proc/self/mountinfo')]
        for here, directories, names in os.walk('/'):
            directories[:] = [name for name in directories if os.path.join(here, name) not in (*bound, '/proc', '/dev')]
            if os.lstat(here).st_dev in devices: escaped(here)
            if here.count('/') > 4: directories[:] = []
        """,
    "allow itself more processes": """
        import resource
        for most in (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_NPROC)[1] + 1):
            try: resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
            except (OSError, ValueError): continue
            escaped(most)
        """,
    "run code in process 1": """
        for line in open('/proc/1/maps'):
            start = int(line.split('-')[0], 16)
            memory = os.open('/proc/1/mem', os.O_RDWR)
            os.pwrite(memory, os.pread(memory, 1, start), start)
            escaped(line)
        """,
}
ATTEMPTS: dict[str, str] = {
    **{name: text for name, text in rooted_attempts.ATTEMPTS.items() if name not in (*_SHARED_NETWORK, *_OF_SANDBOXES)},
    **_OWN,
}


def program(host: list[str]) -> str:
    """A Python program that makes every attempt and prints a line of JSON for each: its name, and how it ended."""
    programs = {name: attempts.written(text, prelude=rooted_attempts._CALLS) for name, text in ATTEMPTS.items()}
    return (
        "import json, subprocess\n"
        f"for name, text in json.loads({json.dumps(programs)!r}).items():\n"
        "    try:\n"
        f"        done = subprocess.run(['python3', '-c', text, *{host!r}], capture_output=True, text=True,\n"
        f"                              errors='replace', timeout={ATTEMPT_S}, close_fds=False)\n"
        "        end = [done.returncode, done.stdout[-300:], done.stderr[-300:]]\n"
        "    except subprocess.TimeoutExpired:\n"
        "        end = [-9, '', 'it took too long']\n"
        "    print(json.dumps([name, *end]), flush=True)\n"
    )


def escaped(lines: list[str]) -> tuple[Mapping[str, object], int]:
    """The attempts that did not fail by what the program printed, and how many were made."""
    found = [json.loads(line) for line in lines if line.startswith("[")]
    bad = {
        name: (code, out, err)
        for name, code, out, err in found
        if not out.startswith("held") and (code >= 0 or "ESCAPED" in out)
    }
    return bad, len(found)
