#!/usr/bin/env python3
"""Tries to get out of a build, and prints for each attempt "blocked" or "ESCAPED", and how.

Arguments: a file of the builder, the number and the name of a process of it, the number
and the description of a key, the name of an abstract socket, and the device of a disk.
"""

import ctypes
import errno
import fcntl
import functools
import mmap
import os
import platform
import signal
import socket
import stat
import struct
import sys
import time

canary, sentinel, sentinel_name, key, key_name, abstract, disk = sys.argv[1:8]
sentinel, key = int(sentinel), int(key)
disk = tuple(int(n) for n in disk.split(":"))

libc = ctypes.CDLL(None, use_errno=True)
amd64 = platform.machine() == "x86_64"
CALLS = {  # on amd64, on arm64
    "ptrace": (101, 117), "syslog": (103, 116), "pivot_root": (155, 41), "adjtimex": (159, 171),
    "settimeofday": (164, 170), "mount": (165, 40), "umount2": (166, 39), "swapon": (167, 224), "reboot": (169, 142),
    "sethostname": (170, 161), "init_module": (175, 105), "delete_module": (176, 106), "quotactl": (179, 60), "acct": (163, 89),
    "clock_settime": (227, 112), "kexec_load": (246, 104), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "unshare": (272, 97), "perf_event_open": (298, 241), "open_by_handle_at": (304, 265), "setns": (308, 268),
    "process_vm_readv": (310, 270), "finit_module": (313, 273), "bpf": (321, 280), "userfaultfd": (323, 282), "clone": (56, 220),
    "io_uring_setup": (425, 425), "open_tree": (428, 428), "fsopen": (430, 430), "clone3": (435, 435), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
}
BIND, REMOUNT, REC, DETACH = 4096, 32, 16384, 2
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000


class Blocked(Exception):
    """An attempt that the kernel refused."""


def call(name, *args):
    """A system call; one that fails is Blocked."""
    number = CALLS[name][0 if amd64 else 1] if isinstance(name, str) else name
    got = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args))
    if got == -1:
        raise Blocked(errno.errorcode.get(ctypes.get_errno(), "?"))
    return got


def permitted(name, *args):
    """Whether a call that is wrong otherwise gets past the check of who may call it."""
    try:
        call(name, *args)
    except Blocked as e:
        if str(e) in ("EPERM", "ENOSYS", "EACCES"):
            raise
        return "permission was given: %s" % e
    return "done"


def first(attempts):
    """The first of some attempts that is not blocked; without one, all reasons."""
    reasons = []
    for what, attempt in attempts:
        try:
            found = attempt()
            if found:
                return "%s: %s" % (what, found)
            reasons.append("%s: nothing" % what)
        except (Blocked, OSError) as e:
            reasons.append("%s: %s" % (what, errno.errorcode.get(e.errno, e) if isinstance(e, OSError) else e))
    raise Blocked("; ".join(sorted(set(reasons)))[:300] or "nothing to try")


def in_child(f):
    """The attempt in a process of its own, which it may spoil."""
    @functools.wraps(f)
    def run():
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                said = "+" + str(f() or "done")
            except BaseException as e:  # it is told
                said = "-" + str(e)
            os.write(w, said.encode()[:4000])
            os._exit(0)
        os.close(w)
        said = b""
        while piece := os.read(r, 4096):
            said += piece
        os.close(r)
        os.waitpid(pid, 0)
        if not said.startswith(b"+"):
            raise Blocked(said[1:].decode() or "killed")
        return said[1:].decode()
    return run


def reach(root):
    """Changes the builder's file, seen from a root."""
    path = root + canary
    with open(path, "r+") as file:
        if "canary" not in file.read():
            raise Blocked("another file")
        file.write("escaped by %s\n" % root)
    return "wrote " + path


def rewrite(path):
    """Writes a setting with what it is already."""
    with open(path) as file:
        before = file.read()
    with open(path, "w") as file:
        file.write(before)
    return "wrote " + path


def mounted(source, kind, flags=0, data=0):
    """Mounts at a folder, and unmounts again."""
    os.makedirs("/tmp/at", exist_ok=True)
    call("mount", source, b"/tmp/at", kind, flags, data)
    call("umount2", b"/tmp/at", DETACH)
    return "mounted"


def openable(path, flags=os.O_WRONLY):
    def attempt():
        os.close(os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC))
        return "opened"
    return path, attempt


def processes():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def others():
    own = {os.getpid(), os.getppid()}
    return [pid for pid in processes() if pid not in own]


ATTEMPTS = []


def attempt(f):
    ATTEMPTS.append((f.__name__.replace("_", " "), f))
    return f


@attempt
@in_child
def leave_chroot():
    os.makedirs("/tmp/chroot", exist_ok=True)
    above = os.open("/", os.O_RDONLY)
    os.chroot("/tmp/chroot")
    os.fchdir(above)
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    return reach("")



@attempt
def root_of_init():
    return reach("/proc/1/root")


@attempt
def root_of_any_process():
    return first([("/proc/%d/%s" % (pid, way), lambda pid=pid, way=way: reach("/proc/%d/%s" % (pid, way)))
                  for pid in processes() for way in ("root", "cwd/../../../../../../../..")])


@attempt
def descriptors_of_init():
    return first([("output", lambda: os.readlink("/proc/1/fd/1")), ("opened", openable("/proc/1/fd/1")[1]), ("mem", openable("/proc/1/mem", os.O_RDWR)[1]),
                  ("environment", lambda: open("/proc/1/environ", "rb").read()), ("map", lambda: open("/proc/1/maps").read())])


@attempt
def mounted_by_name():
    return first([(root or "/", lambda root=root: reach(root)) for root in ("", "/mnt", "/run/vmctl", "/host", "/.old", "/..")])


@attempt
def ptrace_init():
    seize = 0x4206
    return call("ptrace", seize, 1, 0, 0)


@attempt
def ptrace_others():
    seize, detach = 0x4206, 17

    def trace(pid):
        call("ptrace", seize, pid, 0, 0)
        call("ptrace", detach, pid, 0, 0)
        return "seized"
    return first([(str(pid), lambda pid=pid: trace(pid)) for pid in others()[:50]])


@attempt
def memory_of_init():
    buffer = ctypes.create_string_buffer(8)
    vector = struct.pack("QQ", ctypes.addressof(buffer), 8)
    return permitted("process_vm_readv", 1, vector, 1, vector, 1, 0)


@attempt
def descriptor_of_init():
    pidfd = call("pidfd_open", 1, 0)
    try:
        return call("pidfd_getfd", pidfd, 0, 0)
    finally:
        os.close(pidfd)


@attempt
def see_a_process_of_the_host():
    for pid in processes():
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            if sentinel_name.encode() in file.read() and pid != os.getpid() and b"escape" not in open("/proc/%d/cmdline" % pid, "rb").read():
                return "process %d" % pid
    raise Blocked("not in /proc")


@attempt
def kill_a_process_of_the_host():
    if os.path.exists("/proc/%d" % sentinel):
        raise Blocked("the number is another's here")
    os.kill(sentinel, signal.SIGTERM)
    return "killed"


@attempt
def make_a_device():
    ways = []
    for folder in ("/tmp", "/dev", "/run", "/root"):
        for kind, major, minor in (("b", *disk), ("b", 7, 0), ("c", 1, 1), ("c", 10, 237), ("c", 1, 11)):
            def make(folder=folder, kind=kind, major=major, minor=minor):
                path = "%s/escape-%s%d-%d" % (folder, kind, major, minor)
                try:
                    os.mknod(path, 0o600 | (stat.S_IFBLK if kind == "b" else stat.S_IFCHR), os.makedev(major, minor))
                    return openable(path, os.O_RDONLY)[1]()
                finally:
                    if os.path.lexists(path):
                        os.unlink(path)
            ways.append(("%s%d:%d in %s" % (kind, major, minor, folder), make))
    return first(ways)


@attempt
def open_a_device():
    harmless = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)}
    found = [openable(path, os.O_RDONLY) for path in ("/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/loop0", "/dev/loop-control", "/dev/kvm", "/dev/mem", "/dev/kmsg", "/dev/fuse", "/dev/net/tun")]
    for folder, _, names in os.walk("/dev"):
        for name in names:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            device = (os.major(info.st_rdev), os.minor(info.st_rdev))
            if stat.S_ISBLK(info.st_mode) or stat.S_ISCHR(info.st_mode) and device not in harmless and device[0] != 136:
                found.append(openable(path, os.O_RDONLY))
    return first(found)


@attempt
def change_a_device_of_the_host():
    return first([("mode", lambda: os.chmod("/dev/null", 0o666) or "changed"), ("owner", lambda: os.chown("/dev/null", 0, 0) or "changed"),
                  ("entropy", lambda: fcntl.ioctl(os.open("/dev/random", os.O_RDWR), 0x40045201, struct.pack("i", 0)) or "changed")])


@attempt
@in_child
def mount_something():
    return first([
        ("tmpfs", lambda: mounted(b"tmpfs", b"tmpfs")), ("proc", lambda: mounted(b"proc", b"proc")), ("sysfs", lambda: mounted(b"sysfs", b"sysfs")),
        ("cgroup2", lambda: mounted(b"cgroup2", b"cgroup2")), ("bind", lambda: mounted(b"/", 0, BIND | REC)),
        ("overlay", lambda: mounted(b"overlay", b"overlay", 0, b"lowerdir=/etc:/usr")),
        ("by parts", lambda: call("fsopen", b"tmpfs", 0) and "opened"), ("a copy", lambda: call("open_tree", -100, b"/", 1) and "opened"),
    ])


@attempt
@in_child
def mount_a_disk():
    return first([(path, lambda path=path: mounted(path.encode(), b"ext4", 1)) for path in ("/dev/vda", "/dev/loop0", "/dev/root")])



@attempt
@in_child
def uncover_what_is_read_only():
    return first([(where, lambda where=where, way=way: way(where)) for where in ("/proc/sys", "/sys", "/proc/sysrq-trigger", "/dev/null", "/etc/resolv.conf") for way in (
        lambda where: call("umount2", where.encode(), DETACH) or "unmounted",
        lambda where: call("mount", 0, where.encode(), 0, REMOUNT | BIND, 0) or "writable",
    )])



@attempt
def change_settings_of_the_kernel():
    return first([(path, lambda path=path: rewrite(path)) for path in (
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/kernel/sysrq", "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/randomize_va_space", "/proc/sys/vm/swappiness", "/proc/sys/vm/overcommit_memory", "/proc/sys/fs/file-max",
        "/proc/sys/fs/binfmt_misc/status", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/user/max_user_namespaces")])


@attempt
def change_settings_in_sys():
    return first([openable(path) for path in (
        "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/uevent_helper", "/sys/power/state", "/sys/power/disk",
        "/sys/module/kernel/parameters/panic", "/sys/kernel/profiling", "/sys/fs/cgroup/cgroup.procs", "/sys/kernel/tracing/trace",
        "/sys/devices/system/cpu/cpu1/online", "/sys/bus/pci/rescan", "/sys/block/vda/queue/read_ahead_kb", "/sys/kernel/debug/sleep_time")]
        + [("a cgroup", lambda: os.mkdir("/sys/fs/cgroup/escape") or "made")])


@attempt
def trigger_sysrq():
    return openable("/proc/sysrq-trigger")[1]()


@attempt
def read_memory_of_the_kernel():
    return first([openable(path, os.O_RDONLY) for path in ("/proc/kcore", "/dev/mem", "/dev/kmem", "/dev/port", "/proc/kmsg")]
                 + [("log", lambda: call("syslog", 3, ctypes.create_string_buffer(4096), 4096) and "read")])


@attempt
def load_a_module():
    return first([("init", lambda: permitted("init_module", b"", 0, b"")), ("finit", lambda: permitted("finit_module", -1, b"", 0)),
                  ("delete", lambda: permitted("delete_module", b"there_is_none", os.O_NONBLOCK))])


@attempt
def load_another_kernel():
    return permitted("kexec_load", 0, 0, 0, 0)


@attempt
def set_the_clock():
    now = time.time()
    day = struct.pack("qq", int(now), int(now % 1 * 1e6))
    moment = struct.pack("qq", int(now), int(now % 1 * 1e9))
    tick = bytearray(208)
    struct.pack_into("I", tick, 0, 0x4000)  # ADJ_TICK
    struct.pack_into("q", tick, 88, 10000)  # as it is
    return first([("settimeofday", lambda: call("settimeofday", day, 0) or "set"), ("clock_settime", lambda: call("clock_settime", 0, moment) or "set"),
                  ("adjtimex", lambda: permitted("adjtimex", bytes(tick)))])


@attempt
def reboot():
    off = 0  # no key combination reboots: done only where it is allowed
    return permitted("reboot", 0xFEE1DEAD - (1 << 32), 672274793, off, 0)


@attempt
def change_the_swap():
    return permitted("swapon", b"/tmp/there-is-none", 0)


@attempt
def account_for_processes():
    return call("acct", b"/etc/passwd") or "done"


@attempt
def rename_the_machine():
    try:
        call("sethostname", b"escaped", 7)
    except Blocked:
        raise
    if os.uname().nodename == "escaped":
        return "renamed"


@attempt
def open_by_handle():
    ways = []
    for line in open("/proc/self/mountinfo"):
        point = line.split()[4]

        def by_number(point=point):
            mount = os.open(point, os.O_RDONLY | os.O_NONBLOCK)
            try:
                for inode in (2, 128, 256):  # roots of ext4, xfs, btrfs
                    handle = struct.pack("IiII", 8, 1, inode, 0)
                    try:
                        os.close(call("open_by_handle_at", mount, handle, os.O_RDONLY))
                        return "opened inode %d" % inode
                    except Blocked as e:
                        if str(e) == "ESTALE":
                            return "permission was given"
                        reason = e
            finally:
                os.close(mount)
            raise reason if reason else Blocked("nothing")
        ways.append((point, by_number))
    return first(ways)


@attempt
def read_a_key():
    return first([("by number", lambda: call("keyctl", 11, key, 0, 0, 0)), ("in the user's keyring", lambda: call("keyctl", 10, -4, b"user", key_name.encode(), 0)),
                  ("in the session's", lambda: call("keyctl", 10, -3, b"user", key_name.encode(), 0)), ("by request", lambda: call("request_key", b"user", key_name.encode(), 0, 0)),
                  ("add one", lambda: call("add_key", b"user", b"escape", b"x", 1, -4))])


@attempt
def see_keys():
    with open("/proc/keys") as file:
        listed = file.read()
    if key_name in listed:
        return "listed"
    raise Blocked("not listed")


@attempt
def connect_to_an_abstract_socket():
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.connect("\0" + abstract)
    return "connected"


@attempt
def send_to_an_abstract_socket():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(b"escaped", "\0" + abstract + "-datagrams")
    return "sent"


@attempt
def sockets_beyond_the_network():
    return first([("vsock", lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close() or "made"),
                  ("packets", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close() or "made")])


@attempt
def change_the_network():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sh14s", b"lo", 0x49, b"")  # up, loopback, running: as it is
        fcntl.ioctl(s, 0x8914, request)  # SIOCSIFFLAGS
    return "changed lo"


@attempt
def inherited_descriptors():
    own = os.stat("/").st_dev
    for name in os.listdir("/proc/self/fd"):
        try:
            info = os.fstat(int(name))
        except OSError:
            continue  # that of the list
        if stat.S_ISFIFO(info.st_mode) or stat.S_ISCHR(info.st_mode) and os.major(info.st_rdev) in (1, 5, 136):
            continue
        if stat.S_ISREG(info.st_mode) and info.st_dev == own and int(name) > 0:
            continue  # where the report goes
        return "%s is %s" % (name, os.readlink("/proc/self/fd/" + name))
    raise Blocked("pipes alone")


@attempt
def io_uring():
    return call("io_uring_setup", 1, bytes(120))


@attempt
def bpf():
    attributes = struct.pack("IIIII", 2, 4, 4, 1, 0) + bytes(100)  # an array
    program = ctypes.create_string_buffer(bytes([0xB7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0]))
    licence = ctypes.create_string_buffer(b"GPL")
    load = struct.pack("IIQQ", 1, 2, ctypes.addressof(program), ctypes.addressof(licence)) + bytes(100)
    return first([("map", lambda: call("bpf", 0, attributes, len(attributes))), ("program", lambda: call("bpf", 5, load, len(load)))])


@attempt
def userfaultfd():
    return first([("all", lambda: call("userfaultfd", 0)), ("of the user", lambda: call("userfaultfd", 1))])


@attempt
def perf_events():
    attributes = struct.pack("IIQ", 1, 112, 0) + bytes(24) + struct.pack("Q", 1 << 5 | 1 << 6) + bytes(64)
    return call("perf_event_open", attributes, 0, -1, -1, 0)


@attempt
@in_child
def namespaces_of_init():
    def enter(name):
        fd = os.open("/proc/1/ns/" + name, os.O_RDONLY)
        call("setns", fd, 0)
        return "entered"
    return first([(name, lambda name=name: enter(name)) for name in ("mnt", "user", "pid", "ipc", "uts", "net")])



@attempt
@in_child
def namespaces_of_its_own():
    return first([(what, lambda flags=flags: call("unshare", flags) or "made") for what, flags in (
        ("user", NEWUSER), ("user and mounts", NEWUSER | NEWNS), ("mounts", NEWNS), ("processes", NEWPID), ("network", NEWNET), ("IPC", NEWIPC), ("UTS", NEWUTS))])



@attempt
@in_child
def cloned_namespaces():
    def clone(flags):
        pid = call("clone", flags | signal.SIGCHLD, 0, 0, 0, 0)
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        return "made"

    def clone3(flags):
        pid = call("clone3", struct.pack("QQQQQQQQ", flags, 0, 0, 0, signal.SIGCHLD, 0, 0, 0), 64)
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        return "made"
    return first([("clone", lambda: clone(NEWUSER)), ("clone mounts", lambda: clone(NEWNS)), ("clone3", lambda: clone3(NEWUSER))])



def foreign(number, argument):
    """A system call of 32-bit programs."""
    code = bytes([0x53, 0x89, 0xF8, 0x89, 0xF3, 0x31, 0xC9, 0x31, 0xD2, 0xCD, 0x80, 0x5B, 0xC3])
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.c_uint)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    got = function(number, argument)
    if got < 0:
        raise Blocked(errno.errorcode.get(-got, "?"))
    return got


@attempt
@in_child
def calls_of_another_architecture():
    if not amd64:
        raise Blocked("none here")
    unshare, io_uring_setup, userfault, x32 = 310, 425, 374, 0x40000000
    if foreign(20, 0) != os.getpid():  # getpid
        raise Blocked("getpid is another's")
    return first([("i386 unshare", lambda: foreign(unshare, NEWUSER) or "made"), ("i386 mounts", lambda: foreign(unshare, NEWNS) or "made"),
                  ("i386 userfaultfd", lambda: foreign(userfault, 1)), ("x32", lambda: call(x32 | 272, NEWUSER) or "made")])



@attempt
def type_on_a_terminal():
    def push(fd):
        fcntl.ioctl(fd, 0x5412, b"x")  # TIOCSTI
        return "typed"
    return first([("standard input", lambda: push(0)), ("error", lambda: push(2)), ("controlling terminal", lambda: push(os.open("/dev/tty", os.O_RDWR)))])


@attempt
def ports_of_the_processor():
    if not amd64:
        raise Blocked("none here")
    return first([("iopl", lambda: call(172, 3) or "done"), ("ioperm", lambda: call(173, 0x80, 1, 1) or "done")])


@attempt
def change_the_store():
    def write(path):
        with open(path + "/escape", "w") as file:
            file.write("escaped")
        return "wrote"
    return first([(path, lambda path=path: write(path)) for path in ("/run/vmctl/apt/kept", "/run/vmctl/work", "/var/cache/vmctl/layers")])


def main():
    for name, f in ATTEMPTS:
        try:
            found = f()
            print("%-8s %s: %s" % ("ESCAPED" if found is not None else "blocked", name, found), flush=True)
        except (Blocked, OSError) as e:
            print("%-8s %s: %s" % ("blocked", name, e), flush=True)
        except Exception as e:  # a mistake of this script
            print("%-8s %s: %r" % ("FAILED", name, e), flush=True)


if __name__ == "__main__":
    main()
