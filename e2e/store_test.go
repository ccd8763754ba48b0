//go:build e2e

package e2e

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

var stageLine = regexp.MustCompile(`(?m)^(done|cached|failed) +[0-9.]+ s  (.+)$`)

// stages is what a build told of its stages, by their titles.
func (r result) stages() map[string]string {
	told := map[string]string{}
	for _, match := range stageLine.FindAllStringSubmatch(r.stderr, -1) {
		told[match[2]] = match[1]
	}
	return told
}

// TestABuildDoesWhatHasChanged builds the same definition again and again.
func TestABuildDoesWhatHasChanged(t *testing.T) {
	t.Parallel()
	folder := smallBuild(t)
	cache := filepath.Join(folder, "cache")
	build := func(t *testing.T, args ...string) result {
		t.Helper()
		return good(t, folder, append([]string{"build", "small", "--no-test", "--format", "raw", "--cache", cache}, args...)...)
	}
	trees := []string{"Source", "Layer small", "Boot loader", "Seal"}
	expect := func(t *testing.T, r result, cached ...string) {
		t.Helper()
		told := r.stages()
		for _, title := range trees {
			want := "done"
			if slices.Contains(cached, title) {
				want = "cached"
			}
			if told[title] != want {
				t.Errorf("%s is %q, want %q\n%s", title, told[title], want, r.stderr)
			}
		}
	}
	image := filepath.Join(folder, "images/small/small-amd64.raw")

	// added is what the report tells of the layers, once it is sure that it is the build's.
	added := func(t *testing.T, want string) string {
		t.Helper()
		tool(t, "sh", "-c", "cd "+filepath.Dir(image)+" && grep -q ' report.html$' SHA256SUMS && sha256sum --check --strict --quiet SHA256SUMS")
		page := tool(t, "cat", filepath.Join(filepath.Dir(image), "report.html"))
		_, layers, _ := strings.Cut(page, `<section aria-labelledby="layers">`)
		layers, _, found := strings.Cut(layers, "</section>")
		if !found || !strings.Contains(page, want) || !strings.Contains(layers, "commands.d/small.yml:3") {
			t.Errorf("the report lacks %q, or a layer:\n%s", want, page)
		}
		return layers
	}

	expect(t, build(t))
	fresh := added(t, "There is no build before this one")
	before := tool(t, "stat", "-c", "%i %Y %Z", filepath.Dir(image), image)

	t.Run("nothing", func(t *testing.T) {
		r := build(t)
		if !strings.Contains(r.stderr, "unchanged") || len(r.stages()) != 1 {
			t.Errorf("an unchanged build did something:\n%s", r.stderr)
		}
		if after := tool(t, "stat", "-c", "%i %Y %Z", filepath.Dir(image), image); after != before {
			t.Errorf("the images were touched: %s, before %s", after, before)
		}
	})
	t.Run("an image that somebody changed", func(t *testing.T) {
		tool(t, "sh", "-c", `printf x | dd of="$0" bs=1 seek=1000000 conv=notrunc status=none`, image)
		expect(t, build(t), trees...)
		if stored := added(t, "the same, byte by byte"); stored != fresh {
			t.Errorf("the report tells of stored layers:\n%s\nand of those that were made:\n%s", stored, fresh)
		}
	})
	t.Run("a command", func(t *testing.T) {
		write(t, filepath.Join(folder, "commands.d/small.yml"), "commands:\n  - run: sleep 2\n  - run: touch /done\n  - run: echo late > /late\n")
		r := build(t)
		expect(t, r, "Source")
		if !strings.Contains(r.stderr, "cached   commands.d/small.yml:3") {
			t.Errorf("the command before it ran again:\n%s", r.stderr)
		}
		if got := openDisk(t, copyDisk(t, image).raw).cat("/late"); got != "late\n" {
			t.Errorf("the command wrote %q", got)
		}
	})
	t.Run("a command that fails, and is mended", func(t *testing.T) {
		commands := "commands:\n  - run: touch /done\n  - run: echo late > /late\n  - run: date +%s%N > /once; touch /tmp/left\n  - run: "
		write(t, filepath.Join(folder, "commands.d/small.yml"), commands+"touch /half; false\n")
		if r := run(t, folder, "build", "small", "--no-test", "--format", "raw", "--cache", cache); r.code != 4 || !strings.Contains(r.stderr, "commands.d/small.yml:5") {
			t.Fatalf("exit code %d\n%s", r.code, r.stderr)
		}
		once := tool(t, "sh", "-c", `cat "$0"/layers/*/tree/once`, cache)
		write(t, filepath.Join(folder, "commands.d/small.yml"), commands+"test -e /tmp/left\n")
		expect(t, build(t), "Source")
		disk := openDisk(t, copyDisk(t, image).raw)
		if got := disk.cat("/once"); got != once {
			t.Errorf("the entry before the one that failed ran again: %q, before %q", got, once)
		}
		if slices.Contains(disk.ls("/"), "half") || slices.Contains(disk.ls("/tmp"), "left") {
			t.Error("what a failed entry did, or a temporary file, is in the image")
		}
		write(t, filepath.Join(folder, "commands.d/small.yml"), "commands:\n  - run: sleep 2\n  - run: touch /done\n  - run: echo late > /late\n")
		good(t, folder, "build", "small", "--no-test", "--format", "raw", "--cache", cache)
	})
	t.Run("a damaged layer", func(t *testing.T) {
		tool(t, "sh", "-c", `find "$0"/layers -path '*/tree/late' -exec sh -c 'echo damaged > "$1"' - {} \;`, cache)
		expect(t, build(t, "--set", "disk.size=1100M"), "Source")
		if got := openDisk(t, copyDisk(t, image).raw).cat("/late"); got != "late\n" {
			t.Errorf("a damaged layer was used: %q", got)
		}
	})
	t.Run("a layer to be made anew", func(t *testing.T) {
		expect(t, build(t, "--set", "disk.size=1100M", "--refresh", "small"), "Source")
		expect(t, build(t, "--set", "disk.size=1100M", "--no-cache"))
	})
}

// TestTwoBuildsShareAStore runs them at the same time.
func TestTwoBuildsShareAStore(t *testing.T) {
	t.Parallel()
	folder := smallBuild(t)
	write(t, filepath.Join(folder, "install.d/large.yml"), "extends: small\n")
	write(t, filepath.Join(folder, "commands.d/large.yml"), "commands: [{run: touch /large}]\n")
	var both sync.WaitGroup
	for _, name := range []string{"small", "large"} {
		both.Go(func() {
			if r := run(t, folder, "build", name, "--no-test", "--format", "raw", "--cache", filepath.Join(folder, "cache")); r.code != 0 {
				t.Errorf("%s: exit code %d\n%s", name, r.code, r.stderr)
			}
		})
	}
	both.Wait()
	for name, want := range map[string]bool{"small": false, "large": true} {
		names := openDisk(t, copyDisk(t, filepath.Join(folder, "images", name, name+"-amd64.raw")).raw).ls("/")
		if !slices.Contains(names, "done") || slices.Contains(names, "large") != want {
			t.Errorf("%s holds %v", name, names)
		}
	}
	good(t, folder, "cache", "verify", "--cache", filepath.Join(folder, "cache"))
}

// TestStoresOfAnyKind has the store where overlays are impossible, where nothing can
// be written, and where root must not write.
func TestStoresOfAnyKind(t *testing.T) {
	t.Parallel()
	folder := smallBuild(t)
	mounted := func(t *testing.T, args ...string) string {
		t.Helper()
		at := t.TempDir()
		tool(t, "mount", append(args, at)...)
		t.Cleanup(func() { tool(t, "umount", at) })
		return at
	}
	for name, tc := range map[string]struct {
		store func(t *testing.T) string
		code  int
		says  string
	}{
		"an overlay":     {func(t *testing.T) string { return filepath.Join(onOverlay(t), "store") }, 0, ""},
		"too small":      {func(t *testing.T) string { return mounted(t, "-t", "tmpfs", "-o", "size=100m,mode=755", "tmpfs") }, 3, "free space where the store is"},
		"read-only":      {func(t *testing.T) string { return mounted(t, "-t", "tmpfs", "-o", "ro,mode=755", "tmpfs") }, 3, "--cache"},
		"somebody's own": {func(t *testing.T) string { return mounted(t, "-t", "tmpfs", "-o", "uid=4242,mode=755", "tmpfs") }, 3, "belongs to somebody else"},
	} {
		t.Run(name, func(t *testing.T) {
			r := run(t, folder, "build", "small", "--no-test", "--format", "raw", "--cache", tc.store(t), "-o", filepath.Join(t.TempDir(), "images"))
			if r.code != tc.code || !strings.Contains(r.stderr, tc.says) {
				t.Errorf("exit code %d\n%s", r.code, r.stderr)
			}
			nothingLeft(t, folder)
		})
	}
}

// TestAnInitramfsThatWasBegunTooSoonIsMadeAgain has a command that adds to what was begun
// while it ran.
func TestAnInitramfsThatWasBegunTooSoonIsMadeAgain(t *testing.T) {
	t.Parallel()
	debian(t)
	folder := t.TempDir()
	write(t, filepath.Join(folder, "commands.d/debian/module.yml"), "commands: [{run: echo null_blk >>/etc/initramfs-tools/modules}]\n")
	good(t, folder, "build", "debian", "--no-test", "--format", "raw", "--refresh", "debian")
	listing := good(t, folder, "shell", "debian", "--", "sh", "-c", "lsinitramfs /boot/initrd.img-*").stdout
	for _, module := range []string{"/null_blk.ko", "/virtio_blk.ko"} {
		if !strings.Contains(listing, module) {
			t.Errorf("the initramfs lacks %s", module)
		}
	}
}
