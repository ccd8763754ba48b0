# Runs in a guest that starts from a tree: it does what is asked of it at a virtio port.
# A frame is a letter, the length of what follows (four bytes, big-endian), and that.
# Asked is:
#   R  JSON with a command for /bin/sh and its environment; then its input
#   I  a part of the input      E  its end      K  kill the command
#   F  freeze the root file system      T  thaw it      O  switch the machine off
# and answered:
#   H  the machine is up: JSON with systemd's state and the units that failed
#   o, e  what a command prints to standard output and error      X  its exit code
#   D  done, with why it could not be
# The other way round, at any time:
#   W  the guest wants a part of a file: JSON with its digest, and an offset in bytes
#   w  the part, nothing where there is no more, or no such file
import fcntl
import json
import os
import queue
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

PORT = 'vmctl.agent'
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878  # linux/fs.h
LARGEST = 1 << 15


def port():
    """The device of the port, which its module may have yet to make."""
    while True:
        for name in os.listdir('/sys/class/virtio-ports') if os.path.isdir('/sys/class/virtio-ports') else []:
            with open(os.path.join('/sys/class/virtio-ports', name, 'name')) as said:
                if said.read().strip() == PORT and os.path.exists('/dev/' + name):
                    return os.open('/dev/' + name, os.O_RDWR | os.O_CLOEXEC)
        subprocess.call(['modprobe', '-q', 'virtio_console'])
        time.sleep(0.1)


class Agent:
    def __init__(self, port):
        self.port = port
        self.sending = threading.Lock()
        self.wanting = threading.Lock()
        self.parts = queue.Queue()
        self.child = None
        self.input = None

    def send(self, letter, content=b''):
        frame = letter + struct.pack('>I', len(content)) + content
        with self.sending:
            while frame:
                frame = frame[os.write(self.port, frame):]

    def read(self, size):
        content = b''
        while len(content) < size:
            part = os.read(self.port, size - len(content))
            if not part:  # nobody is there
                time.sleep(0.1)
            content += part
        return content

    def serve(self):
        while True:
            letter, size = struct.unpack('>cI', self.read(5))
            getattr(self, 'on_' + letter.decode())(self.read(size))

    def on_R(self, order):
        order = json.loads(order)
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        env = dict(os.environ, **order['env'])
        self.child = subprocess.Popen(['/bin/sh', '-c', order['command']], env=env, cwd='/', start_new_session=True, **pipes)
        # Of parts that wait, since who reads the port must not: the command may want a file first.
        self.input = queue.Queue(1024)
        threading.Thread(target=self.feed, args=(self.child, self.input), daemon=True).start()
        threading.Thread(target=self.watch, args=(self.child,), daemon=True).start()

    def feed(self, child, parts):
        for part in iter(parts.get, None):
            try:
                child.stdin.write(part)
                child.stdin.flush()
            except (OSError, ValueError):
                pass  # it has ended, or wants no more
        try:
            child.stdin.close()
        except OSError:
            pass

    def watch(self, child):
        pipes = {child.stdout.fileno(): b'o', child.stderr.fileno(): b'e'}
        reading = list(pipes)
        while reading:
            readable = select.select(reading, [], [], 0.2)[0]
            for pipe in readable:
                part = os.read(pipe, LARGEST)
                if part:
                    self.send(pipes[pipe], part)
                else:
                    reading.remove(pipe)
            if not readable and child.poll() is not None:
                break  # what still has the pipes is a daemon that the command has left
        code = child.wait()
        child.stdout.close()
        child.stderr.close()
        self.send(b'X', str(code).encode())

    def on_I(self, part):
        self.input.put(part)

    def on_E(self, _):
        self.input.put(None)

    def on_K(self, _):
        if self.child.returncode is None:
            os.killpg(self.child.pid, signal.SIGKILL)

    def on_w(self, part):
        self.parts.put(part)

    def lend(self, path):
        """Gives what the builder has to whoever says a digest at a socket."""
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        os.chmod(path, 0o600)
        server.listen()
        while True:
            threading.Thread(target=self.give, args=(server.accept()[0],), daemon=True).start()

    def give(self, client):
        digest, offset, part = client.makefile().readline().strip(), 0, b'?'
        while part:
            with self.wanting:
                self.send(b'W', json.dumps({'sha256': digest, 'offset': offset}).encode())
                part = self.parts.get()
            offset += len(part)
            try:
                client.sendall(part)
            except OSError:
                break  # it has ended
        client.close()

    def on_F(self, _):
        os.sync()
        self.freeze(FIFREEZE)

    def on_T(self, _):
        self.freeze(FITHAW)

    def freeze(self, request):
        root, problem = os.open('/', os.O_RDONLY), b''
        try:
            fcntl.ioctl(root, request, 0)
        except OSError as e:
            problem = str(e).encode()
        os.close(root)
        self.send(b'D', problem)

    def on_O(self, _):
        subprocess.Popen(['systemctl', 'poweroff', '--no-wall'])
        self.send(b'D')


def output(*argv):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return done.stdout.decode('utf-8', 'replace')


agent = Agent(port())
serving = threading.Thread(target=agent.serve)
serving.start()
threading.Thread(target=agent.lend, args=(sys.argv[1],), daemon=True).start()
state = output('systemctl', 'is-system-running', '--wait').strip()
failed = [line.split()[0] for line in output('systemctl', 'list-units', '--state=failed', '--no-legend', '--plain').splitlines() if line.split()]
agent.send(b'H', json.dumps({'state': state, 'failed': failed}).encode())
serving.join()
