# Seals the machine that runs it: see seal.Script.
set -e
umask 022
root=${1:-}
key=@KEY@

# Who was let in for this run alone.
for file in "$root"/root/.ssh/authorized_keys "$root"/home/*/.ssh/authorized_keys; do
	if [ -n "$key" ] && grep -qF -- "$key" "$file" 2>/dev/null; then
		rest=$(grep -vF -- "$key" "$file" || :)
		if [ -n "$rest" ]; then
			printf '%s\n' "$rest" >"$file"
		else
			rm -f -- "$file"
		fi
	fi
done

# What the first boot of each machine makes anew.
if [ -z "$root" ] && command -v systemctl >/dev/null; then
	mkdir -p "$(dirname @NO_PROMPT_FILE@)" "$(dirname @PRESET_FILE@)"
	cat >@NO_PROMPT_FILE@ <<'END'
@NO_PROMPT@END
	if [ -e /usr/sbin/sshd ]; then
		cat >/etc/systemd/system/@KEYGEN_UNIT@ <<'END'
@KEYGEN@END
		systemctl enable @KEYGEN_UNIT@
	fi
	units() { systemctl list-unit-files --state="$1" --no-legend --no-pager --plain | while read -r unit rest; do echo "disable $unit"; done; }
	# What was disabled before stays so unless it was enabled: a unit that a generator wants is
	# not listed as what it is.
	before=$(grep '^disable ' @PRESET_FILE@ 2>/dev/null | grep -vxF "$(units enabled)" || :)
	{
		cat <<'END'
@PRESET@END
		[ -z "$before" ] || printf '%s\n' "$before"
		units disabled | grep -vxF "$before" || :
	} >@PRESET_FILE@.new
	mv @PRESET_FILE@.new @PRESET_FILE@
	journalctl --relinquish-var 2>/dev/null || :
	umount @MACHINE_ID@ 2>/dev/null || :
fi

# What cloud-init remembers of this machine, but for its seed.
for entry in "$root"/var/lib/cloud/*; do
	[ "$entry" = "$root/var/lib/cloud/seed" ] || rm -rf -- "$entry"
done
if [ -e "$root/usr/bin/cloud-init" ]; then
	rm -f -- "$root"/etc/netplan/50-cloud-init.yaml "$root"/etc/network/interfaces.d/50-cloud-init* "$root"/etc/systemd/network/10-cloud-init-*
fi

# What an image must not carry.
@REMOVE@
if [ -d "$root"/var/log ]; then # some of it may go meanwhile
	rm -rf -- "$root"/var/log/installer
	find "$root"/var/log -xdev ! -type d ! \( -type f ! -user 0 -links 1 \) -delete || :
	find "$root"/var/log -xdev -type f \( -name '*.[0-9]' -o -name '*.[0-9].*' -o -name '*.gz' -o -name '*.xz' -o -name '*.zst' -o -name '*.old' \) -delete || :
	find "$root"/var/log -xdev -type f -exec truncate -s 0 {} + || :
fi
find "$root/" -xdev -type d -name __pycache__ -prune -exec rm -rf {} +
echo uninitialized >"$root@MACHINE_ID@"
touch "$root/etc/.updated" "$root/var/.updated"
if [ ! -L "$root@RESOLV_CONF@" ]; then
	if [ -e "$root/usr/lib/systemd/systemd-resolved" ]; then
		ln -sf @STUB_RESOLV@ "$root@RESOLV_CONF@"
	else
		: >"$root@RESOLV_CONF@"
	fi
fi
sync
if [ -z "$root" ]; then
	fstrim -a 2>/dev/null || :
fi
