# What action_plugins/vmctl.py runs in the tree for the facts that Ansible's setup finds with
# the subset !all, but for those of the machine, which the cache plugin tells. It prints them, or
# None where something is there that setup alone knows to read. Starting Python is most of what
# it takes, so it imports what is built in.
import glob
import os
import pwd
import re
import sys

# What setup would read, run or ask, and this does not.
BEYOND = (
    '/etc/*[-_]release', '/etc/slackware-version', '/etc/coreos/update.conf', '/etc/ansible/facts.d', '/usr/bin/rpm', '/run/ostree-booted',
    '/sbin/lsb_release', '/bin/lsb_release', '/usr/local/*bin/lsb_release', '/usr/lib/python3/dist-packages/distro',
)


def facts(best_version):
    found = {path for pattern in BEYOND for path in glob.glob(pattern)} - {'/etc/os-release'}
    text = read('/etc/os-release')
    release = dict(re.findall(r'^([A-Z_]+)=["\']?(.*?)["\']?$', text, re.M))
    machine = os.uname().machine
    if found or release.get('ID') != 'debian' or not release.get('VERSION_ID') or machine not in ('x86_64', 'aarch64') or sys.maxsize < 1 << 32:
        return None
    if re.search('Amazon|Arch Linux|suse', text, re.I) or 'Debian' not in text or not os.path.exists('/usr/bin/apt-get'):
        return None
    found = distribution(text, release, best_version)
    found.update(python(), **user())
    found.update(
        system='Linux', machine=machine, architecture=machine, userspace_bits='64', python_version=sys.version.split()[0],
        pkg_mgr='apt', lsb={}, local={}, selinux_python_present=bool(glob.glob('/usr/lib/*/libselinux.so.1')),
    )
    if machine == 'x86_64':
        found['userspace_architecture'] = machine
    found = {'ansible_' + name: value for name, value in found.items()}
    return dict(found, gather_subset=['!all'], module_setup=True)


def read(path):
    try:
        with open(path, encoding='utf-8', errors='replace') as file:
            return file.read()
    except OSError:
        return ''


def distribution(text, release, best_version):
    version, point = release['VERSION_ID'], read('/etc/debian_version').strip()
    minor = re.findall(r'(\d+)\.(\d+)', point)
    if best_version and point.count('.') > version.count('.'):
        version = point.splitlines()[0]
    names = re.search(r'PRETTY_NAME=[^(]+ \(?([^)]+?)\)', text)
    found = {
        'distribution': 'Debian', 'os_family': 'Debian', 'distribution_version': version, 'distribution_major_version': version.split('.')[0],
        'distribution_release': names.group(1) if names else release.get('VERSION_CODENAME', 'NA'),
        'distribution_file_path': '/etc/os-release', 'distribution_file_variety': 'Debian', 'distribution_file_parsed': True,
    }
    if minor:
        found['distribution_minor_version'] = minor[-1][1]
    return found


def python():
    try:
        import _ssl  # noqa: F401
        ssl = os.path.exists(os.path.join(os.path.dirname(os.__file__), 'ssl.py'))
    except ImportError:
        ssl = False
    names = ('major', 'minor', 'micro', 'releaselevel', 'serial')
    return {'python': {
        'version': dict(zip(names, sys.version_info)), 'version_info': list(sys.version_info), 'executable': sys.executable,
        'has_sslcontext': ssl, 'type': sys.implementation.name,
    }}


def user():
    name = next(filter(None, map(os.environ.get, ('LOGNAME', 'USER', 'LNAME', 'USERNAME'))), None)
    try:
        entry = pwd.getpwnam(name) if name else pwd.getpwuid(os.getuid())
    except KeyError:
        entry = pwd.getpwuid(os.getuid())
    return {
        'user_id': name or entry.pw_name, 'user_uid': entry.pw_uid, 'user_gid': entry.pw_gid, 'user_gecos': entry.pw_gecos, 'user_dir': entry.pw_dir,
        'user_shell': entry.pw_shell, 'real_user_id': os.getuid(), 'effective_user_id': os.geteuid(), 'real_group_id': os.getgid(), 'effective_group_id': os.getgid(),
    }


if __name__ == '__main__':
    print(ascii(facts(sys.argv[1:] == ['best'])))
