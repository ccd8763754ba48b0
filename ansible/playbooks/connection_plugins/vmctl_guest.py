# Runs commands in a guest that its agent takes from a socket. The frames are those of
# orchestrator/guest/agent.py.
import json
import os
import shlex
import socket
import struct
import threading

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: vmctl_guest
short_description: runs commands in a guest that vmctl has started
description: Takes commands, their input and what they print through a socket.
options:
  agent:
    description: path of the socket
    vars: [{name: ansible_host}]
"""

LARGEST = 1 << 15

# What the programs of the guest get of vmctl's environment.
PASSED_ON = ('SOURCE_DATE_EPOCH', 'TZ')


class Connection(ConnectionBase):
    transport = 'vmctl_guest'
    has_pipelining = True
    default_user = 'root'

    def _connect(self):
        if not self._connected:
            self._socket = socket.socket(socket.AF_UNIX)
            try:
                self._socket.connect(self.get_option('agent'))
            except OSError as e:
                raise AnsibleConnectionFailure('the guest cannot be reached: %s' % e)
            self._connected = True
        return self

    def exec_command(self, cmd, in_data=None, sudoable=True):
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        data = in_data.encode() if isinstance(in_data, str) else in_data or b''
        stdout = []
        code, stderr = self._run(cmd, [data[i:i + LARGEST] for i in range(0, len(data), LARGEST)], stdout.append)
        return code, b''.join(stdout), stderr

    def put_file(self, in_path, out_path):
        super().put_file(in_path, out_path)
        with open(in_path, 'rb') as source:
            self._copy('umask 077; cat >' + shlex.quote(out_path), iter(lambda: source.read(LARGEST), b''), None)

    def fetch_file(self, in_path, out_path):
        super().fetch_file(in_path, out_path)
        with open(out_path, 'wb') as target:
            self._copy('cat ' + shlex.quote(in_path), (), target.write)

    def _copy(self, command, data, stdout):
        code, stderr = self._run(command, data, stdout)
        if code:
            raise AnsibleConnectionFailure(stderr.decode('utf-8', 'replace').strip())

    def _run(self, command, data, stdout):
        """Runs a command with parts of an input: its exit code, and what it prints as an error."""
        self._connect()
        env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        try:
            self._send(b'R', json.dumps({'command': command, 'env': env}).encode())
            sender = threading.Thread(target=self._input, args=(data,), daemon=True)
            sender.start()
            stderr = b''
            while True:
                letter, size = struct.unpack('>cI', self._read(5))
                content = self._read(size)
                if letter == b'X':
                    sender.join()
                    return int(content), stderr
                if letter == b'e':
                    stderr += content
                elif stdout:
                    stdout(content)
        except OSError as e:
            raise AnsibleConnectionFailure('the guest has ended: %s' % e)

    def _input(self, data):
        try:
            for part in data:
                self._send(b'I', part)
            self._send(b'E', b'')
        except OSError:
            pass  # whoever reads finds out

    def _send(self, letter, content):
        self._socket.sendall(letter + struct.pack('>I', len(content)) + content)

    def _read(self, size):
        content = b''
        while len(content) < size:
            part = self._socket.recv(size - len(content))
            if not part:
                raise ConnectionError('nobody answers')
            content += part
        return content

    def close(self):
        if self._connected:
            self._socket.close()
            self._connected = False
