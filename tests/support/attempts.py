"""What a hostile job tries, one attempt each: programs for the inside of a sandbox that print `held` or `ESCAPED …`.

An attempt that raises OSError has failed, which is what we want; one that dies of a signal has failed, too. Values that
only the host knows (an address, a path) come as arguments.
"""

import textwrap
from pathlib import Path

_CAP_SYS_RESOURCE = 24
_PRELUDE = '''
import ctypes, errno, os, platform, signal, socket, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
MACHINE = platform.machine()

def escaped(what):
    print("ESCAPED", what)
    sys.exit()

def call(name, *arguments):
    """Make a system call by its number; returns its result, raises OSError."""
    result = libc.syscall(NUMBERS[name][0 if MACHINE == "x86_64" else 1], *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result

NUMBERS = {
    "bpf": (321, 280), "io_uring_setup": (425, 425), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "keyctl": (250, 219), "add_key": (248, 217), "ptrace": (101, 117), "mount": (165, 40), "unshare": (272, 97),
    "setns": (308, 268), "pivot_root": (155, 41), "kexec_load": (246, 104), "open_by_handle_at": (304, 265),
    "process_vm_readv": (310, 270), "init_module": (175, 105), "move_mount": (429, 429), "fsopen": (430, 430),
}
'''

ATTEMPTS: dict[str, str] = {
    "read /etc/shadow": "print(open('/etc/shadow').read()); escaped('read it')",
    "read homes": """
        found = [entry for top in ('/root', '/home') if os.path.isdir(top) for entry in os.listdir(top)]
        if found: escaped(found)
        """,
    "read a file of the host by its path": "print(open(sys.argv[1]).read()); escaped('read it')",
    "find the host's directory through mountinfo": """
        for line in open('/proc/self/mountinfo'):
            path = line.split()[3]
            if path != '/' and os.path.exists(path) and 'workspace' in path: escaped(path)
        """,
    "read other processes' environment": """
        for name in os.listdir('/proc'):
            if name.isdigit() and int(name) != os.getpid():
                try: data = open(f'/proc/{name}/environ', 'rb').read()
                except OSError: continue
                if data: escaped(name)
        """,
    "see processes of the host": """
        if any(int(name) > 200 for name in os.listdir('/proc') if name.isdigit()): escaped(os.listdir('/proc'))
        """,
    "write outside of the workspace": """
        for path in ('/x', '/usr/x', '/etc/passwd', '/etc/x', '/run/agent.py', '/bin/x', '/proc/sys/kernel/hostname'):
            try: open(path, 'a').write('x')
            except OSError: continue
            escaped(path)
        """,
    "replace the agent": "os.rename('/tmp/x', '/run/agent.py') if open('/tmp/x', 'w') else 0; escaped('did')",
    "follow a link out of the workspace": """
        os.symlink(sys.argv[1], '/workspace/link')
        print(open('/workspace/link').read()); escaped('followed it')
        """,
    "kill process 1": """
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGSEGV): os.kill(1, number)
        """,
    "kill a process of the host": "os.kill(int(sys.argv[2]), signal.SIGTERM); escaped('killed it')",
    "trace process 1": "call('ptrace', 16, 1, 0, 0); escaped('attached')",
    "trace a child": """
        child = subprocess.Popen(['sleep', '60'])
        try: call('ptrace', 16, child.pid, 0, 0); escaped('attached')
        finally: child.kill()
        """,
    "read the memory of process 1": "print(open('/proc/1/mem', 'rb').read(1)); escaped('read it')",
    "list the descriptors of process 1": "print(os.listdir('/proc/1/fd')); escaped('listed them')",
    "find an inherited descriptor": """
        found = [name for name in os.listdir('/proc/self/fd') if int(name) > 3]
        if found: escaped(found)
        """,
    "reach the host's loopback": """
        socket.create_connection(('127.0.0.1', int(sys.argv[3])), timeout=5); escaped('connected')
        """,
    "reach an abstract socket of the host": """
        peer = socket.socket(socket.AF_UNIX); peer.connect('\\0' + sys.argv[4]); escaped('connected')
        """,
    "reach the internet": """
        peer = socket.socket(); peer.settimeout(5); peer.connect(('192.0.2.1', 80)); escaped('connected')
        """,
    "open a socket of another family": """
        for family, kind in ((40, 1), (38, 5), (17, 3), (16, 3), (21, 5), (29, 3)):
            try: socket.socket(family, kind).close()
            except OSError: continue
            if family != 16: escaped(family)  # netlink of its own network namespace is harmless
        """,
    "open a raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); escaped('opened')",
    "mount": "call('mount', b'none', b'/tmp', b'tmpfs', 0, 0); escaped('mounted')",
    "mount the new way": "call('fsopen', b'tmpfs', 0); escaped('opened')",
    "make a user namespace": "call('unshare', 0x10000000); escaped('made it')",
    "make a user namespace by clone": """
        pid = libc.syscall(56 if MACHINE == 'x86_64' else 220, 0x10000000 | 17, 0, 0, 0, 0)
        if pid == 0: os._exit(0)
        if pid > 0: os.waitpid(pid, 0); escaped('made it')
        """,
    "enter another namespace": """
        call('setns', os.open('/proc/1/ns/net', os.O_RDONLY), 0); escaped('entered')
        """,
    "change the root": "os.chroot('/tmp'); escaped('changed it')",
    "load a bpf program": "call('bpf', 0, 0, 0); escaped('did')",
    "use io_uring": "call('io_uring_setup', 8, ctypes.create_string_buffer(200)); escaped('did')",
    "watch performance counters": """
        attributes = ctypes.create_string_buffer(struct.pack('IIQ', 1, 120, 0), 120)
        call('perf_event_open', attributes, 0, -1, -1, 0); escaped('did')
        """,
    "use userfaultfd": "call('userfaultfd', 1); escaped('did')",
    "use the kernel's keyring": "call('add_key', b'user', b'a', b'b', 1, -3); escaped('did')",
    "join a keyring": "call('keyctl', 1, 0); escaped('did')",
    "read another process's memory": """
        call('process_vm_readv', 1, 0, 0, 0, 0, 0); escaped('did')
        """,
    "open a file by its handle": "call('open_by_handle_at', -100, 0, 0); escaped('did')",
    "load a kernel module": "call('init_module', 0, 0, b''); escaped('did')",
    "load another kernel": "call('kexec_load', 0, 0, 0, 0); escaped('did')",
    "call the kernel as a 32-bit program": """
        if MACHINE == 'x86_64':
            import mmap
            code = mmap.mmap(-1, 4096, prot=7)
            code.write(b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3')  # mov eax, getpid; int 0x80; ret
            address = ctypes.addressof(ctypes.c_char.from_buffer(code))
            if ctypes.CFUNCTYPE(ctypes.c_int)(address)() > 0: escaped('it answered')
        """,
    "call the kernel as an x32 program": """
        if MACHINE == 'x86_64' and libc.syscall(0x40000000 | 39) > 0: escaped('it answered')
        """,
    "type into the terminal": """
        import fcntl, pty, termios
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSTI, b'x'); escaped('typed')
        """,
    "write to kernel settings": """
        for path in ('/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/proc/sys/vm/drop_caches'):
            try: open(path, 'w').write('b')
            except OSError: continue
            escaped(path)
        """,
    "make a device": "os.mknod('/workspace/device', 0o660 | 0o20000, os.makedev(1, 1)); escaped('made it')",
    "find a disk": """
        found = [name for name in os.listdir('/dev') if name.startswith(('sd', 'vd', 'nvme', 'mem', 'kmsg', 'loop'))]
        if found: escaped(found)
        """,
    "become root": """
        for change in (lambda: os.setuid(0), lambda: os.setresuid(0, 0, 0), lambda: os.setgroups([0])):
            try: change()
            except OSError: continue
            escaped('did')
        """,
    "gain privileges by a setuid program": """
        if libc.prctl(39, 0, 0, 0, 0) != 1: escaped('new privileges are possible')
        made = '/workspace/id'
        open(made, 'wb').write(open('/usr/bin/id', 'rb').read()); os.chmod(made, 0o6755)
        if subprocess.run([made, '-u'], capture_output=True).stdout.strip() == b'0': escaped('did')
        """,
    "have a capability": """
        facts = dict(line.split(':') for line in open('/proc/self/status') if line.startswith('Cap'))
        if any(int(facts[name], 16) for name in ('CapEff', 'CapPrm', 'CapInh', 'CapBnd', 'CapAmb')): escaped(facts)
        """,
    "run without a filter of system calls": """
        status = open('/proc/self/status').read()
        if 'Seccomp:\\t2' not in status: escaped(status)
        """,
    "see control groups or the kernel's devices": """
        found = [path for path in ('/sys', '/sys/fs/cgroup', '/boot', '/var', '/srv', '/mnt') if os.path.exists(path)]
        if found: escaped(found)
        """,
}


def program(name: str) -> str:
    """The Python program of an attempt."""
    return written(ATTEMPTS[name])


def written(attempt: str, *, prelude: str = "") -> str:
    """Write out the Python program of an attempt; `prelude` defines what it uses beside what all have."""
    body = textwrap.indent(textwrap.dedent(attempt).strip(), "    ")
    return (
        f"{_PRELUDE}{prelude}\ntry:\n{body}\nexcept OSError as error: print('held', error.errno)\nelse: print('held')\n"
    )


def may_bind_scores() -> bool:
    """Whether this user may say which programs are spared least when memory is used up, so that they cannot."""
    effective = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return bool(int(effective.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)
