# What action_plugins/vmctl.py runs in the tree: it reads a part of an entry with its items
# from standard input, applies them in order up to the first that fails, and prints what
# became of each. Starting Python is most of what it takes, so it imports what is built in.
import _signal as signal
import grp
import marshal
import os
import pwd
import select
import stat
import sys


class Failed(Exception):
    """What an item failed of, with other values of its result."""

    def __init__(self, message, **values):
        super().__init__(message)
        self.values = values


def apply(part, items):
    work = {'files': file, 'users': user, 'services': service, 'command': command}[part]
    results = []
    for item in items:
        try:
            done = work(item)
            results.append(done if isinstance(done, dict) else {'changed': done})
        except Failed as e:
            results.append(dict(e.values, failed=True, msg=str(e)))
            break
        except OSError as e:
            results.append({'failed': True, 'msg': str(e)})
            break
    return results


# Files, as the modules copy and file treat them.

def file(item):
    path = item['path']
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.isdir(path):
        if item['name'] is None:
            raise Failed('a folder has that name')
        path = os.path.join(path, item['name'])
    before = found(path, item['diff']) if item['diff'] else None
    changed = write(path, item['content'], item['staged'], item['mode'], item['owner'], item['group'])
    if not changed or before is None:
        return changed
    return {'changed': True, 'before': before, 'after': dict(attributes(os.lstat(path)), path=path)}


def found(path, largest):
    """What a file was: its content, None of one that is larger, and whose it is."""
    try:
        before = os.lstat(path)
    except FileNotFoundError:
        return {'content': b''}
    if stat.S_ISLNK(before.st_mode):
        return dict(attributes(before), content=b'link to %s\n' % os.fsencode(os.readlink(path)))
    if not stat.S_ISREG(before.st_mode) or before.st_size > largest:
        return dict(attributes(before), content=None)
    with open(path, 'rb') as file:
        return dict(attributes(before), content=file.read())


def attributes(of):
    user, group = known(pwd.getpwuid, of.st_uid), known(grp.getgrgid, of.st_gid)
    return {
        'mode': '%04o' % stat.S_IMODE(of.st_mode), 'owner': user.pw_name if user else str(of.st_uid), 'group': group.gr_name if group else str(of.st_gid),
    }


def write(path, content, staged, mode, owner, group):
    """Makes path a file with a content, or that of a staged file: whole or not at all."""
    uid = number(owner, 'user', lambda name: pwd.getpwnam(name).pw_uid)
    gid = number(group, 'group', lambda name: grp.getgrnam(name).gr_gid)
    try:
        before = os.lstat(path)
    except FileNotFoundError:
        before = None
    if before is None or not stat.S_ISREG(before.st_mode) or not same(path, before.st_size, content, staged):
        temporary = os.path.join(os.path.dirname(path), '.vmctl-%d' % os.getpid())
        target = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(target, 'wb', 0) as target:
                for chunk in chunks(content, staged):
                    while chunk:
                        chunk = chunk[target.write(chunk):]
                os.fchown(target.fileno(), uid, gid)
                os.fchmod(target.fileno(), int(mode, 8))
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        return True
    if (before.st_uid, before.st_gid) != (uid, gid):
        os.chown(path, uid, gid)
    elif stat.S_IMODE(before.st_mode) == int(mode, 8):
        return False
    os.chmod(path, int(mode, 8))
    return True


def chunks(content, staged):
    if staged is None:
        yield memoryview(content)
        return
    with open(staged, 'rb') as source:
        while chunk := source.read(1 << 20):
            yield memoryview(chunk)


def same(path, size, content, staged):
    if size != (len(content) if staged is None else os.stat(staged).st_size):
        return False
    with open(path, 'rb') as before:
        return all(before.read(len(chunk)) == chunk for chunk in chunks(content, staged))


def number(name, kind, lookup):
    try:
        return int(name)
    except ValueError:
        pass
    try:
        return lookup(name)
    except KeyError:
        raise Failed('failed to look up %s %s' % (kind, name)) from None


# Programs.

def run(*argv, environment=os.environ, text='', keep=()):
    """Runs a program of the tree's, with some descriptors besides its own three: its result, and what the module command tells of it."""
    pipes = [os.pipe() for _ in range(3)]
    actions = [(os.POSIX_SPAWN_DUP2, pipes[0][0], 0), (os.POSIX_SPAWN_DUP2, pipes[1][1], 1), (os.POSIX_SPAWN_DUP2, pipes[2][1], 2)]
    actions += [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(keep, 3)]
    child = os.posix_spawnp(argv[0], argv, environment, file_actions=actions, setsigdef=[signal.SIGPIPE, signal.SIGXFSZ])
    for end in (pipes[0][0], pipes[1][1], pipes[2][1]):
        os.close(end)
    os.write(pipes[0][1], text.encode())
    os.close(pipes[0][1])
    ours = {pipes[1][0]: b'', pipes[2][0]: b''}
    reading, status = list(ours), None
    while reading:
        readable = select.select(reading, [], [], 0.2)[0]
        for pipe in readable:
            chunk = os.read(pipe, 1 << 16)
            ours[pipe] += chunk
            if not chunk:
                reading.remove(pipe)
        if not readable:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break  # what still has the pipes is a daemon that the program has left
            status = None
    if status is None:
        status = os.waitpid(child, 0)[1]
    stdout, stderr = (said.decode('utf-8', 'replace').rstrip('\r\n') for said in ours.values())
    return {'changed': True, 'rc': os.waitstatus_to_exitcode(status), 'stdout': stdout, 'stderr': stderr}


def must(*argv, text=''):
    """Runs a program, and fails as it does."""
    done = run(*argv, text=text)
    if done['rc']:
        raise Failed((done['stderr'] or done['stdout']).strip() or '%s failed' % argv[0], **done)


def service(item):
    must('systemctl', item['verb'], '--', *item['units'])
    return True


def command(item):
    try:
        os.chdir(item['chdir'])
    except OSError as e:
        raise Failed('Unable to change directory before execution: %s' % e) from None
    if item['creates']:
        import glob
        if glob.glob(item['creates']):
            return {'changed': False, 'rc': 0, 'stdout': 'skipped, since %s exists' % item['creates']}
    done = shell(item['script'], dict(os.environ, **item['environment']))
    if done['rc']:
        raise Failed('non-zero return code', **done)
    return done


def shell(script, environment):
    """Runs a script, of which no command line tells: it may hold secrets."""
    memory, name = os.memfd_create('script'), '/proc/self/fd/3'
    try:
        os.write(memory, ('exec 3<&-; ' + script).encode())  # which no program of the script gets
        done = run('/bin/sh', name, environment=environment, keep=[memory])
    finally:
        os.close(memory)
    done['stderr'] = done['stderr'].replace(name + ': ', '/bin/sh: ')
    return done


# Users, as the modules group, user and authorized_key treat them.

def user(item):
    changed = False
    groups = item.get('groups', [])
    for group in groups:
        if not known(grp.getgrnam, group):
            must('groupadd', group)
            changed = True
    changed = account(item, groups) or changed
    if item.get('password_hash') is not None:
        changed = password(item['name'], item['password_hash']) or changed
    if item.get('empty_password'):
        changed = password(item['name'], '') or changed
    if 'ssh_keys' in item:
        changed = keys(pwd.getpwnam(item['name']), item['ssh_keys']) or changed
    if 'sudo' in item:
        folder = '/etc/sudoers.d'
        if not os.path.isdir(folder):
            os.mkdir(folder)
        os.chmod(folder, 0o750)
        rule = '%s ALL=(ALL:ALL) NOPASSWD: ALL\n' % item['name']
        changed = write(os.path.join(folder, item['name']), rule.encode(), None, '0440', 0, 0) or changed
    return changed


def known(lookup, name):
    try:
        return lookup(name)
    except KeyError:
        return None


def account(item, groups):
    name, options = item['name'], []
    before = known(pwd.getpwnam, name)
    if 'uid' in item and (not before or before.pw_uid != int(item['uid'])):
        options += ['-u', str(item['uid'])]
    if 'comment' in item and (not before or before.pw_gecos != item['comment']):
        options += ['-c', item['comment']]
    if 'home' in item and (not before or before.pw_dir != item['home']):
        options += ['-d', item['home']]
    if not before or before.pw_shell != item['shell']:
        options += ['-s', item['shell']]
    if not before:
        if groups:
            options += ['-G', ','.join(groups)]
        if known(grp.getgrnam, name):
            options += ['-N']
        if item.get('system'):
            options += ['-r']
        if 'home' in item:
            os.makedirs(os.path.dirname(item['home']), exist_ok=True)
        must('useradd', *options, '-m', '--', name)
        return True
    if any(before.pw_gid != grp.getgrnam(g).gr_gid and name not in grp.getgrnam(g).gr_mem for g in groups):
        options += ['-a', '-G', ','.join(groups)]
    if options:
        must('usermod', *options, '--', name)
    return home(pwd.getpwnam(name)) or bool(options)


def home(owner):
    if os.path.exists(owner.pw_dir):
        return False
    os.makedirs(os.path.dirname(owner.pw_dir), exist_ok=True)
    must('cp', '-R', '--', '/etc/skel', owner.pw_dir)
    must('chown', '-R', '--', '%d:%d' % (owner.pw_uid, owner.pw_gid), owner.pw_dir)
    return True


def password(name, wanted):
    with open('/etc/shadow', encoding='utf-8', errors='surrogateescape') as shadow:
        before = next((line.split(':')[1] for line in shadow if line.startswith(name + ':')), '!')
    if before == wanted or wanted and before.lstrip('!') == wanted.lstrip('!'):
        return False
    if not wanted:
        must('passwd', '--quiet', '--delete', name)
        return True
    try:
        must('chpasswd', '-e', text='%s:%s\n' % (name, wanted))
    except Failed as e:
        raise Failed(str(e).replace(wanted, '********'), rc=e.values['rc']) from None
    return True


TYPES = {
    'sk-ecdsa-sha2-nistp256@openssh.com', 'sk-ecdsa-sha2-nistp256-cert-v01@openssh.com', 'sk-ssh-ed25519@openssh.com',
    'sk-ssh-ed25519-cert-v01@openssh.com', 'ecdsa-sha2-nistp256', 'ecdsa-sha2-nistp256-cert-v01@openssh.com',
    'ecdsa-sha2-nistp384', 'ecdsa-sha2-nistp384-cert-v01@openssh.com', 'ecdsa-sha2-nistp521',
    'ecdsa-sha2-nistp521-cert-v01@openssh.com', 'ssh-ed25519', 'ssh-ed25519-cert-v01@openssh.com', 'ssh-dss',
    'ssh-dss-cert-v01@openssh.com', 'ssh-rsa', 'ssh-rsa-cert-v01@openssh.com', 'ssh-xmss@openssh.com',
    'ssh-xmss-cert-v01@openssh.com', 'rsa-sha2-256', 'rsa-sha2-256-cert-v01@openssh.com', 'rsa-sha2-512',
    'rsa-sha2-512-cert-v01@openssh.com',
}


def keys(owner, wanted):
    folder = os.path.join(owner.pw_dir, '.ssh')
    path = os.path.join(folder, 'authorized_keys')
    lines = []
    if os.path.isfile(path):
        with open(path, encoding='utf-8', errors='surrogateescape') as before:
            lines = before.read().splitlines()
    after = list(lines)
    for line in '\n'.join(wanted).splitlines():
        if not line or line.startswith('#'):
            continue
        key = parsed(line)
        if key is None:
            raise Failed('invalid key specified: %s' % line)
        if key in map(parsed, after):
            continue
        after = [other for other in after if (parsed(other) or [None])[0] != key[0]]
        after.append('%s%s %s %s' % (key[2] and key[2] + ' ', key[1], key[0], key[3]))
    if after == lines:
        return False
    if not os.path.isdir(folder):
        os.mkdir(folder)
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    os.chmod(folder, 0o700)
    content = ''.join(line + '\n' for line in after).encode('utf-8', 'surrogateescape')
    write(path, content, None, '0600', owner.pw_uid, owner.pw_gid)
    return True


def parsed(line):
    """A public key, its type, its options and its comment."""
    words = line.split()
    at = next((i for i, word in enumerate(words) if word in TYPES), None)
    if at is None or words[0] == '#' or at + 1 == len(words):
        return None
    return words[at + 1], words[at], ' '.join(words[:at]), ' '.join(words[at + 2:])


if __name__ == '__main__':
    print(ascii(apply(*marshal.load(sys.stdin.buffer))))
