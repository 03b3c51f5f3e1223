"""What a hostile job tries as root of its own file system, beside or instead of what `attempts` has.

The same rules: an attempt that raises OSError or dies has failed, and values that only the host knows are arguments.
"""

from tests.support import attempts

# As root of a copy of the system, these are no way out: the guest's own files, users and root directory.
_HARMLESS = (
    "read /etc/shadow",
    "read homes",
    "write outside of the workspace",
    "replace the agent",
    "change the root",
    "list the descriptors of process 1",
    "become root",
    "gain privileges by a setuid program",
    "have a capability",
    "see control groups or the kernel's devices",
)

SPARED = "be spared when memory is used up"
_CALLS = """
def tried(number, *arguments):
    return libc.syscall(number, *arguments) >= 0
"""

_OWN: dict[str, str] = {
    "write to what is the host's": """
        for path in ('/__modal/host/usr/x', '/__modal/host/usr/bin/env', '/__modal/agent.py', '/__modal/sync.py',
                     '/etc/resolv.conf', '/bin/sync', '/__modal/.bin/modal-sandbox-fs-tools', '/dev/x', '/proc/x'):
            try: open(path, 'a').write('x')
            except OSError: continue
            escaped(path)
        """,
    "change the owner or the mode of what is the host's": """
        for path in ('/__modal/host/usr', '/__modal/host/usr/bin/env', '/dev/null', '/dev/zero', '/dev/tty'):
            for change in (lambda: os.chmod(path, 0o777), lambda: os.chown(path, 1, 1), lambda: os.utime(path, (1, 1)),
                           lambda: os.setxattr(path, 'user.x', b'x')):
                try: change()
                except OSError: continue
                escaped(path)
        """,
    "replace the agent": """
        open('/tmp/x', 'w').close()
        for path in ('/__modal/agent.py', '/__modal/sync.py', '/__modal/host/usr', '/proc', '/dev', '/etc/hosts'):
            for change in (lambda: os.rename('/tmp/x', path), lambda: os.unlink(path), lambda: os.rename(path, '/y')):
                try: change()
                except OSError: continue
                escaped(path)
        """,
    "fill the devices": "open('/dev/fill', 'w').write('x'); escaped('wrote')",
    "use the descriptors of process 1": """
        for name in (*os.listdir('/proc/1/fd'), *map(str, range(64))):
            for use in (lambda: os.open(f'/proc/1/fd/{name}', os.O_RDONLY), lambda: os.readlink(f'/proc/1/fd/{name}'),
                        lambda: open(f'/proc/1/fdinfo/{name}').read()):
                try: use()
                except OSError: continue
                escaped(name)
        """,
    "look into process 1": """
        for name in ('mem', 'environ', 'maps', 'smaps', 'auxv', 'stack', 'syscall', 'pagemap', 'personality', 'io'):
            for path in (f'/proc/1/{name}', f'/proc/1/task/1/{name}'):
                try: found = open(path, 'rb').read(1)
                except OSError: continue
                if found: escaped(path)
        for name in ('root', 'cwd', 'exe', 'ns/net', 'ns/user', 'ns/mnt'):
            try: escaped(os.readlink(f'/proc/1/{name}'))
            except OSError: pass
        """,
    "write to process 1": """
        for name in ('mem', 'attr/current', 'uid_map', 'gid_map', 'setgroups'):
            try: open(f'/proc/1/{name}', 'wb', buffering=0).write(b'1')
            except OSError: continue
            escaped(name)
        """,
    "take a descriptor of process 1": """
        pidfd = os.pidfd_open(1)
        for number in range(16):
            if tried(438, pidfd, number, 0): escaped(number)
        """,
    "compare descriptors with process 1": """
        if tried(312 if MACHINE == 'x86_64' else 272, os.getpid(), 1, 1, 0, 0): escaped('did')
        """,
    "advise or release the memory of process 1": """
        pidfd = os.pidfd_open(1)
        vector = struct.pack('QQ', 0x400000, 4096)
        for number in (440, 448):
            if tried(number, pidfd, vector, 1, 21, 0): escaped(number)
        """,
    "move the pages of process 1": """
        if tried(256 if MACHINE == 'x86_64' else 238, 1, 8, b'\\0' * 8, b'\\1' * 8): escaped('did')
        """,
    "kill process 1 by every signal": """
        pidfd = os.pidfd_open(1)
        for number in range(1, 65):
            for send in (lambda: os.kill(1, number), lambda: signal.pidfd_send_signal(pidfd, number)):
                try: send()
                except (OSError, ValueError): pass
        """,
    "raise its own limits": """
        import resource
        for name in ('RLIMIT_NPROC', 'RLIMIT_FSIZE', 'RLIMIT_CORE'):
            limit = getattr(resource, name)
            try: resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            except (OSError, ValueError): continue
            escaped(name)
        """,
    "be preferred by the scheduler": """
        for change in (lambda: os.nice(-5), lambda: os.setpriority(os.PRIO_PROCESS, 0, -10),
                       lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))):
            try: change()
            except OSError: continue
            escaped('did')
        if tried(251 if MACHINE == 'x86_64' else 30, 1, 0, 1 << 13): escaped('real-time input and output')
        """,
    SPARED: """
        begun = int(open('/proc/self/oom_score_adj').read())
        if begun < 0: escaped(begun)
        for value in ('-1000', '-1', str(begun - 1)):
            try: open('/proc/self/oom_score_adj', 'w').write(value)
            except OSError: continue
            escaped(value)
        """,
    "mount in every way": """
        for number, arguments in (
            (165 if MACHINE == 'x86_64' else 40, (b'none', b'/mnt', b'tmpfs', 0, 0)),
            (165 if MACHINE == 'x86_64' else 40, (b'/tmp', b'/mnt', 0, 4096, 0)),
            (165 if MACHINE == 'x86_64' else 40, (b'none', b'/', 0, 32 | 4096, 0)),
            (165 if MACHINE == 'x86_64' else 40, (b'none', b'/__modal/host/usr', 0, 32, 0)),
            (165 if MACHINE == 'x86_64' else 40, (b'proc', b'/mnt', b'proc', 0, 0)),
            (165 if MACHINE == 'x86_64' else 40, (b'none', b'/', 0, 1 << 20 | 16384, 0)),
            (428, (-100, b'/', 1)), (429, (-100, b'/tmp', -100, b'/mnt', 0)),
            (430, (b'overlay', 0)), (430, (b'tmpfs', 0)),
            (433, (-100, b'/', 0)), (442, (-100, b'/', 0, struct.pack('QQQQ', 0, 1, 0, 0), 32)),
            (467, (-100, b'/', 1, struct.pack('QQQQ', 0, 1, 0, 0), 32)),
        ):
            if tried(number, *arguments): escaped((number, arguments))
        """,
    "unmount": """
        for path in (b'/etc/resolv.conf', b'/__modal/host/usr', b'/dev', b'/proc', b'/workspace', b'/bin/sync', b'/'):
            for flags in (0, 2, 4, 8):
                if tried(166 if MACHINE == 'x86_64' else 39, path, flags): escaped((path, flags))
        """,
    "change the root by pivot_root": "os.mkdir('/tmp/o'); call('pivot_root', b'/tmp', b'/tmp/o'); escaped('did')",
    "make any new namespace": """
        for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x00000080):
            if tried(272 if MACHINE == 'x86_64' else 97, flag): escaped(('unshare', hex(flag)))
            for more in (0, 17, 0x100, 0x10000000):
                if flag == 0x80 and not more & 0x10000000: continue  # below, it is a signal's number for `clone`
                pid = libc.syscall(56 if MACHINE == 'x86_64' else 220, flag | more, 0, 0, 0, 0)
                if pid == 0: os._exit(0)
                if pid > 0: escaped(('clone', hex(flag | more)))
        """,
    "make a new namespace by clone3": """
        for flag in (0, 0x00020000, 0x10000000, 0x20000000, 0x40000000, 0x00000080):
            arguments = ctypes.create_string_buffer(struct.pack('Q' * 8, flag, 0, 0, 0, 17, 0, 0, 0) + bytes(24))
            pid = libc.syscall(435, arguments, 64)
            if pid == 0: os._exit(0)
            if pid > 0: escaped(hex(flag))
        """,
    "enter a namespace by any descriptor": """
        for name in os.listdir('/proc/self/ns'):
            for flags in (0, 0x10000000, 0x00020000, 0x40000000):
                if tried(308 if MACHINE == 'x86_64' else 268, os.open(f'/proc/self/ns/{name}', os.O_RDONLY), flags):
                    escaped(name)
        for flags in (0x10000000, 0x00020000, 0x20000000 | 0x40000000):
            if tried(308 if MACHINE == 'x86_64' else 268, os.pidfd_open(os.getpid()), flags): escaped('by pidfd')
        """,
    "reach the owner of a namespace": """
        import fcntl
        for name in ('user', 'mnt', 'net', 'pid'):
            descriptor = os.open(f'/proc/self/ns/{name}', os.O_RDONLY)
            for request in (0xb701, 0xb702):  # NS_GET_USERNS, NS_GET_PARENT
                try: found = fcntl.ioctl(descriptor, request)
                except OSError: continue
                own = os.stat('/proc/self/ns/user').st_ino
                if name != 'user' and request == 0xb701 and os.fstat(found).st_ino == own: continue  # it is ours
                escaped((name, hex(request)))
        """,
    "raise the number of namespaces": """
        for name in os.listdir('/proc/sys/user'):
            try: open(f'/proc/sys/user/{name}', 'w').write('100')
            except OSError: continue
            escaped(name)
        """,
    "list mounts by their numbers": """
        request = struct.pack('IIQQQ', 32, 0, 2**64 - 1, 0xff, 0)
        for number in (457, 458):
            if tried(number, ctypes.create_string_buffer(request), ctypes.create_string_buffer(4096), 4096, 0):
                escaped(number)
        """,
    "use the kernel's keyrings": """
        for number, arguments in ((250, (0, -3, 1)), (250, (1, 0)), (248, (b'user', b'a', b'b', 1, -5)),
                                  (249, (b'user', b'a', 0, -3))):
            if MACHINE == 'x86_64' and tried(number, *arguments): escaped(number)
        """,
    "load a bpf program in any way": """
        for command in (0, 5, 9, 18, 28):
            if tried(321 if MACHINE == 'x86_64' else 280, command, bytes(128), 128): escaped(command)
        """,
    "use io_uring in any way": """
        parameters = ctypes.create_string_buffer(200)
        for number, arguments in ((425, (8, parameters)), (426, (0, 0, 0, 0, 0, 0)), (427, (0, 0, 0, 0))):
            if tried(number, *arguments): escaped(number)
        """,
    "use userfaultfd by its device": "os.open('/dev/userfaultfd', os.O_RDWR); escaped('opened')",
    "open a file by its handle in any way": """
        handle = ctypes.create_string_buffer(struct.pack('II', 128, 0) + bytes(128))
        mount = ctypes.c_int()
        for where in (b'/', b'/__modal/host/usr', b'/workspace', b'/etc/passwd'):
            for flags in (0, 0x200, 0x400, 1):
                if tried(303 if MACHINE == 'x86_64' else 264, -100, where, handle, ctypes.byref(mount), flags):
                    escaped(where)
        root = os.open('/', os.O_RDONLY)
        for kind, size in ((1, 8), (2, 20), (0xfb, 8), (0xfe, 8)):
            handle = ctypes.create_string_buffer(struct.pack('IIII', size, kind, 2, 0) + bytes(32))
            if tried(304 if MACHINE == 'x86_64' else 265, root, handle, 0): escaped(kind)
        """,
    "make any device": """
        numbers = [(1, 1), (1, 2), (1, 3), (5, 1), (8, 0), (253, 0), (254, 0), (7, 0), (10, 229)]
        for where in ('/', '/tmp/', '/workspace/', '/dev/', '/dev/shm/'):
            for kind in (0o020000, 0o060000):
                # Anyone may make the device 0/0 but on an overlay, where it is a whiteout.
                for number in numbers + [(0, 0)] * (where in ('/', '/tmp/')):
                    try: os.mknod(f'{where}node', 0o660 | kind, os.makedev(*number))
                    except OSError: continue
                    escaped((where, number))
        """,
    "make a mark of an overlay": """
        import stat
        os.mkdir('/tmp/hidden')
        for name in ('user.overlay.opaque', 'user.overlay.redirect', 'user.overlay.metacopy', 'user.overlay.whiteout',
                     'trusted.overlay.opaque', 'trusted.overlay.redirect', 'trusted.x', 'security.ima', 'security.evm'):
            try: os.setxattr('/tmp/hidden', name, b'y')
            except OSError: continue
            if not name.startswith('user.overlay.'): escaped(name)  # those are kept under another name
        try: os.rename('/tmp/hidden', '/tmp/gone', src_dir_fd=None, dst_dir_fd=None)
        except OSError: pass
        if tried(316 if MACHINE == 'x86_64' else 276, -100, b'/tmp/gone', -100, b'/tmp/left', 4):
            if stat.S_ISCHR(os.lstat('/tmp/gone').st_mode): escaped('made a whiteout by renaming')
        """,
    "rename the host": """
        if tried(170 if MACHINE == 'x86_64' else 161, b'x', 1): escaped('hostname')
        if tried(171 if MACHINE == 'x86_64' else 162, b'x', 1): escaped('domain name')
        for name in ('hostname', 'domainname'):
            try: open(f'/proc/sys/kernel/{name}', 'w').write('x')
            except OSError: continue
            escaped(name)
        """,
    "write to any setting of the kernel": """
        own = ('kernel/shm', 'kernel/msg', 'kernel/sem', 'kernel/auto_msgmni', 'fs/mqueue/', 'kernel/ns_last_pid',
               'kernel/pid_max')  # of its own namespaces
        for top, _, names in os.walk('/proc/sys'):
            for name in names:
                path = os.path.join(top, name)
                try: descriptor = os.open(path, os.O_WRONLY)
                except OSError: continue
                if not path.removeprefix('/proc/sys/').startswith(own): escaped(path)
        for path in ('/proc/sysrq-trigger', '/proc/kcore', '/proc/kmsg', '/proc/kpagecount', '/proc/timer_list',
                     '/proc/irq/default_smp_affinity', '/proc/mtrr', '/proc/scsi/scsi', '/proc/acpi/wakeup'):
            try: os.open(path, os.O_RDWR)
            except OSError: continue
            escaped(path)
        """,
    "write to a map of ids": """
        for name in ('uid_map', 'gid_map', 'setgroups'):  # anyone may map projects, which mean nothing inside
            try: open(f'/proc/self/{name}', 'wb', buffering=0).write(b'0 0 1')
            except OSError: continue
            escaped(name)
        """,
    "be an id that is not mapped": """
        for uid in (65536, 100000, 210000, 300000000, 2**32 - 2):
            for change in (os.setuid, os.setgid, lambda uid: os.setgroups([uid]), os.seteuid,
                           lambda uid: os.chown('/tmp', uid, uid)):
                try: change(uid)
                except OSError: continue
                escaped(uid)
        """,
    "find the kernel's devices": """
        for top in ('/sys', '/boot', '/sys/fs/cgroup', '/sys/kernel'):
            if os.path.isdir(top) and os.listdir(top): escaped(top)
        for line in open('/proc/self/mountinfo'):
            kind = line.split(' - ')[1].split()[0]
            if kind in ('sysfs', 'cgroup', 'cgroup2', 'debugfs', 'securityfs', 'bpf'): escaped(line)
        """,
    "open a socket of any other family": """
        for family in range(64):
            if family in (1, 2, 10, 16): continue
            for kind in (1, 2, 3, 5):
                try: socket.socket(family, kind).close()
                except OSError: continue
                escaped((family, kind))
        """,
    "open any raw socket": """
        for family in (2, 10):
            for protocol in (1, 2, 6, 17, 58, 255):
                try: socket.socket(family, socket.SOCK_RAW, protocol).close()
                except OSError: continue
                escaped((family, protocol))
        """,
    "change the network": """
        routes = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        link = struct.pack('BxHiII', 0, 0, 0, 0, 0) + struct.pack('HH4s', 8, 3, b'veth')
        request = struct.pack('IHHII', 16 + len(link), 16, 0x605, 1, 0) + link
        routes.sendto(request, (0, 0))
        answer = routes.recv(4096)
        if struct.unpack('i', answer[16:20])[0] == 0: escaped('made an interface')
        """,
    "filter packets": """
        server = socket.socket()
        for level, option in ((0, 64), (41, 64)):
            try: server.setsockopt(level, option, bytes(100))
            except OSError: continue
            escaped(option)
        for protocol in (12, 20, 15, 9):
            try: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
            except OSError: continue
        """,
    "leave a changed root twice": """
        os.makedirs('/tmp/one/two', exist_ok=True)
        own = (os.stat('/').st_dev, os.stat('/').st_ino)
        outside = os.open('/', os.O_RDONLY)
        os.chroot('/tmp/one'); os.mkdir('/deeper'); os.chroot('/deeper')
        os.fchdir(outside)
        for _ in range(300): os.chdir('..')
        os.chroot('.')
        if (os.stat('/').st_dev, os.stat('/').st_ino) != own: escaped(os.listdir('/'))
        if os.path.exists(sys.argv[1]): escaped('the host')
        """,
    "gain a capability by a file's": """
        import shutil
        shutil.copy('/usr/bin/cat', '/tmp/able')
        for version, words in ((0x02000001, 4), (0x03000001, 5)):
            value = struct.pack('I' * words, *[version, 2**32 - 1, 2**32 - 1, 511, 511][:words])
            try: os.setxattr('/tmp/able', 'security.capability', value.ljust(20, b'\\0'))
            except OSError: continue
        found = subprocess.run(['/tmp/able', '/proc/self/status'], capture_output=True, text=True).stdout
        for line in found.splitlines():
            if line.startswith(('CapPrm', 'CapEff')) and int(line.split()[1], 16) & ~0x800405fb: escaped(line)
        """,
    "gain a capability by a setuid program": """
        import shutil
        shutil.copy('/usr/bin/cat', '/tmp/set'); os.chmod('/tmp/set', 0o6755)
        code = 'import os, subprocess; os.setgroups([]); os.setgid(1); os.setuid(1)\\n'
        code += 'print(subprocess.run(["/tmp/set", "/proc/self/status"], capture_output=True, text=True).stdout)'
        found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout
        for line in found.splitlines():
            if line.startswith('Uid') and '0' in line.split()[1:]: escaped(line)
            if line.startswith(('CapPrm', 'CapEff')) and int(line.split()[1], 16): escaped(line)
        """,
    "have another capability": """
        for line in open('/proc/self/status'):
            if line.startswith('Cap') and int(line.split()[1], 16) & ~0x800405fb: escaped(line)
        """,
    "keep capabilities as another user": """
        code = 'import os; os.setgroups([]); os.setgid(1); os.setuid(1); print(open("/proc/self/status").read())'
        found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout
        if 'Uid:\\t1' not in found: escaped(found)
        for line in found.splitlines():
            if line.startswith(('CapInh', 'CapPrm', 'CapEff', 'CapAmb')) and int(line.split()[1], 16): escaped(line)
        """,
    "gain new privileges": """
        status = open('/proc/self/status').read()
        if 'NoNewPrivs:\\t1' not in status or libc.prctl(38, 0, 0, 0, 0) == 0: escaped(status)
        """,
    "change how process 1 is seen": """
        for name in ('comm', 'autogroup', 'coredump_filter', 'timens_offsets', 'loginuid', 'sched'):
            try: open(f'/proc/1/{name}', 'w').write('1')
            except OSError: pass
        """,
    "leave its control group": """
        for line in open('/proc/self/cgroup'):
            if '..' in line: escaped(line)
        """,
    "read the kernel's log": """
        for kind in (2, 3, 10):
            if tried(103 if MACHINE == 'x86_64' else 116, kind, ctypes.create_string_buffer(4096), 4096): escaped(kind)
        """,
    "use the machine as a whole": """
        now = struct.pack('qq', 1, 0)
        calls = [(169, (0xfee1dead, 672274793, 0)), (167, (b'/tmp/x', 0)), (168, (b'/tmp/x',)), (163, (b'/tmp/x',))]
        calls += [(153, ()), (179, (0, 0, 0, 0)), (246, (0, 0, 0, 0)), (320, (-1, -1, 0, 0, 0)), (175, (0, 0, b''))]
        calls += [(313, (-1, b'', 0)), (176, (b'x', 0)), (135, (0x0040000,)), (172, (3,)), (173, (0, 8, 1))]
        calls += [(227, (0, now)), (164, (now, 0)), (159, (struct.pack('I', 1) + bytes(204),)), (212, (0, 0, 0))]
        for number, arguments in calls:
            if MACHINE == 'x86_64' and tried(number, *arguments): escaped(number)
        """,
    "find what the host has told the launcher": """
        for path in ('/proc/1/environ', '/proc/1/cmdline', '/proc/1/comm', '/proc/1/stat'):
            try: text = open(path, 'rb').read()
            except OSError: continue
            if b'WORKBENCH' in text or os.path.dirname(sys.argv[1]).encode() in text: escaped(text)
        """,
    "find the cloud's directories": """
        top = os.path.dirname(sys.argv[1])
        for path in (top, os.path.dirname(top) + '/sandboxes', '/__modal/host/home', '/oldroot', '/newroot'):
            if os.path.exists(path): escaped(path)
        for top in ('/mnt', '/run', '/srv'):
            found = os.listdir(top) if os.path.isdir(top) else []
            if any(name.startswith(('source-', 'root', 'workbench')) for name in found): escaped(found)
        """,
}

ATTEMPTS: dict[str, str] = {
    **{name: text for name, text in attempts.ATTEMPTS.items() if name not in _HARMLESS},
    **_OWN,
}


def program(name: str) -> str:
    """The Python program of an attempt."""
    return attempts.written(ATTEMPTS[name], prelude=_CALLS)
