package installer

import (
	"strings"
	"testing"
	"time"
)

// What debian-installer has shown on a serial console, cleaned.
const (
	working  = "Detecting network hardware  ... 2%... 95%... 100%\nConfiguring the network with DHCP  ... 4%... 100%\nChecking the Debian archive mirror  ... 25%... 50%\n"
	location = working + `Select your location
--------------------
The selected location will be used to set your time zone and also for example
to help select the system locale.
Continent or region:
  1: Africa,              5: Caribbean,            9: North America,
  4: Atlantic Ocean,      8: Indian Ocean,
Prompt: '?' for help>
`
	components = working + `Download installer components
-----------------------------
The installer failed to download a file from the mirror. This may be a problem
with your network, or with the mirror. You can choose to retry the download,
Downloading a file failed:
  1: Retry [*],  2: Change mirror,      3: Cancel,
Prompt: '?' for help, default=1>
`
)

func TestHowAnInstallerFails(t *testing.T) {
	long := time.Minute
	for name, tc := range map[string]struct {
		state State
		want  string // "" for no failure
	}{
		"at work":                   {State{Console: working, Silent: long}, ""},
		"off":                       {State{Console: working, Off: true}, ""},
		"off after another failure": {State{Console: "a download failed\n" + strings.Repeat("then it went on\n", nearEnd), Off: true}, ""},
		"asks":                      {State{Console: location, Silent: long}, "the installer asks, and nobody answers: Select your location: The selected location will be used to set your time zone and also for example to help select the system locale."},
		"has just asked":            {State{Console: location, Silent: time.Second}, ""},
		"asks for a download":       {State{Console: components, Silent: long}, "the installer asks, and nobody answers: Download installer components: The installer failed to download a file from the mirror."},
		"asks as Alpine's does":     {State{Console: "Which disk(s) would you like to use? (or '?' for help or 'none') [none]", Silent: long}, "nobody answers: Which disk(s)"},
		"asks for yes or no":        {State{Console: "Continue? (y/n)", Silent: long}, "nobody answers: Continue? (y/n)"},
		"asks as Anaconda does":     {State{Console: "Please make a selection from the above ['b' to begin, 'q' to quit]: ", Silent: long}, "nobody answers: Please make"},
		"waits for a key":           {State{Console: "Press Enter to continue", Silent: long}, "nobody answers: Press Enter"},
		"lets log in":               {State{Console: "Welcome\nlocalhost login:", Silent: long}, "nobody answers: localhost login:"},
		"opens a shell":             {State{Console: "dropping to a shell\n~ #", Silent: long}, "nobody answers: ~ #"},
		"a shell of root's":         {State{Console: "root@live:~# ", Silent: long}, "nobody answers: root@live:~#"},
		"a shell in the initramfs":  {State{Console: "ALERT\n(initramfs)", Silent: long}, "nobody answers: (initramfs)"},
		"a download, and off":       {State{Console: working + "wget: server returned error: HTTP/1.1 404 Not Found\nPowering off", Off: true}, "the installer has failed: wget: server returned error: HTTP/1.1 404 Not Found"},
		"a download, and silence":   {State{Console: working + "Failed to fetch http://h/x", Silent: 10 * time.Minute}, "has failed, and stands still: Failed to fetch http://h/x"},
		"a download, at work":       {State{Console: working + "Failed to fetch http://h/x\nwget: note: no certificates", Silent: long}, ""},
		"an earlier question":       {State{Console: "Continue? (y/n)\nPrompt: >\n# \nWiping the disk", Silent: long}, ""},
		"stands still":              {State{Console: working, Silent: 10 * time.Minute}, "said nothing for 10m0s after: Checking the Debian archive mirror  ... 25%... 50%"},
		"says nothing at all":       {State{Silent: 10 * time.Minute}, "standstill: the installer said nothing on the serial console for 10m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.state.Limit = 10 * time.Minute
			err := Judge(tc.state)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

// Messages of the kernel come behind a question, and beside it.
func TestWhatTheKernelSaysIsNotTheInstallers(t *testing.T) {
	const message = "[    8.576601] hrtimer: interrupt took 114535825 ns"
	if got := Said(message + "\n" + working + "Which disk? [none]" + message + "\n" + message + "\n"); got != working+"Which disk? [none]\n" {
		t.Errorf("%q", got)
	}
	if got := Said(message + "\n"); got != message+"\n" {
		t.Errorf("%q where there is nothing else", got)
	}
}

// No line of a kernel or of an installer at work is a question.
func TestWhatIsNoQuestion(t *testing.T) {
	for _, line := range []string{
		"[    1.234567] virtio_blk virtio0: [vda] 16777216 512-byte logical blocks (8.59 GB/8.00 GiB)", "Unpacking linux-image-6.12-amd64 ...", "Installing the base system  ... 55%",
		"Setting up passwd (1:4.17.4-2) ...", "# a comment", "####################", "Price 5$", "[ OK ] Reached target Basic System.", "Copying files [done]", "Partitions formatting", "Running post-installation trigger...",
	} {
		if err := Judge(State{Console: working + line, Silent: time.Minute, Limit: time.Hour}); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// The clock of screen(1) is drawn again each minute, whatever the installer does.
func TestWhatIsDrawnAgainIsNotSaid(t *testing.T) {
	status := "[           (1*installer)  2 shell  3 shell  4- log           ][ Nov 27 23:20 ]"
	if got := Clean("[                  (-*)                     ][ Nov 27 23:51 ]\n" + status + "\n" + working + "\n" + status + " " + strings.ReplaceAll(status, "23:20", " 3:21")); got != working {
		t.Errorf("%q", got)
	}
}

func TestWhatAnInstallerDoes(t *testing.T) {
	for console, want := range map[string]string{working: "Checking the Debian archive mirror", "Linux version 6\n": "", working + "Detecting link on enp0s3; please wait...  ... 0%\n": "Detecting link on enp0s3; please wait"} {
		if got := Step(console); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for console, want := range map[string]string{"": "", "Copying files\n": "Copying files", "[    0.037499] Spectre V2\n": ""} {
		if got := Last(console); got != want {
			t.Errorf("the last line is %q, want %q", got, want)
		}
	}
}

func TestTheAnswersBelongToTheCommandLine(t *testing.T) {
	if !strings.Contains(Append, "{{ build.answers_url }}") || !strings.Contains(Append, "console=ttyS0") {
		t.Errorf("%s", Append)
	}
	for _, line := range []string{"debian-installer/exit/poweroff boolean true", "passwd/root-password-crypted password !", "grub-installer/skip boolean true"} {
		if !strings.Contains(Preseed, "\nd-i "+line+"\n") {
			t.Errorf("the preseed lacks %s", line)
		}
	}
}
