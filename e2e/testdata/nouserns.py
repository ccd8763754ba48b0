#!/usr/bin/env python3
"""Runs a command that can make no user namespace, as containers have it."""

import ctypes
import os
import struct
import sys

LOAD, EQUAL, ANY, RETURN = 0x20, 0x15, 0x45, 0x06
NUMBER, FIRST_ARGUMENT = 0, 16
ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026
NEWUSER = 0x10000000
CLONE3 = 435
clone, unshare = (56, 272) if os.uname().machine == "x86_64" else (220, 97)

program = [
    (LOAD, 0, 0, NUMBER), (EQUAL, 5, 0, CLONE3), (EQUAL, 1, 0, clone), (EQUAL, 0, 4, unshare),
    (LOAD, 0, 0, FIRST_ARGUMENT), (ANY, 0, 2, NEWUSER), (RETURN, 0, 0, EPERM), (RETURN, 0, 0, ENOSYS), (RETURN, 0, 0, ALLOW),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *i) for i in program))
in_c = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code))
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, in_c, 0, 0) != 0:
    sys.exit("seccomp: " + os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[1], sys.argv[1:])
