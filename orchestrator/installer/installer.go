// Package installer judges what the serial console of an unattended installer tells, and has
// what Debian's own is told in place of asking. How its guest is run is not known here.
package installer

import (
	_ "embed" // the answers
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Preseed is the answers for debian-installer, a template: a small system on one ext4 file
// system, without boot loader, root's password or other users.
//
//go:embed preseed.cfg.j2
var Preseed string

// Append is the kernel's command line for debian-installer, a template. Its questions come as
// plain lines, and only those that nothing else answers.
const Append = "auto=true priority=critical url={{ build.answers_url }} interface=auto DEBIAN_FRONTEND=text noshell console=ttyS0,115200"

// DefaultAppend is the command line of any other installer.
const DefaultAppend = "console=ttyS0,115200"

// Package is that of Debian's archive which has the installer of a release, for an architecture.
func Package(release, arch string) string {
	return "debian-installer-" + release + "-netboot-" + arch
}

// KernelPath and InitrdPath are where it has them.
func KernelPath(release, arch string) string { return netboot(release, arch) + "/linux" }

// InitrdPath is beside KernelPath.
func InitrdPath(release, arch string) string { return netboot(release, arch) + "/initrd.gz" }

func netboot(release, arch string) string {
	return "/usr/lib/debian-installer/images/" + release + "/" + arch + "/text/debian-installer/" + arch
}

// Grace is how long a question must be there before it counts: many a one is answered at once.
const Grace = 20 * time.Second

// State is what is known of an installer at one moment.
type State struct {
	Console string        // as Said gives it; the end of it
	Silent  time.Duration // since it has said something
	Limit   time.Duration // of silence
	Off     bool          // its guest has ended
}

// screenStatus is the line that debian-installer's screen(1) draws anew each minute.
var screenStatus = regexp.MustCompile(`\[[^\[\]\n]*\*[^\[\]\n]*\]\[ [A-Z][a-z]{2} \d{2} [ \d]\d:\d\d \]`)

// Clean is a console without escapes as what was said on it: less what is drawn again and
// again although nothing happens.
func Clean(console string) string {
	var said strings.Builder
	console = strings.ReplaceAll(console, "\b", "")
	for line := range strings.Lines(screenStatus.ReplaceAllString(console, "")) {
		if strings.TrimSpace(line) != "" {
			said.WriteString(strings.TrimRight(line, " \n") + "\n")
		}
	}
	return said.String()
}

// kernelMessage is one of Linux's, which come at any time.
var kernelMessage = regexp.MustCompile(`\[ *\d+\.\d{6}\] [^\n]*\n?`)

// Said is a clean console less messages of the kernel, unless there is nothing else on it.
func Said(console string) string {
	if said := Clean(kernelMessage.ReplaceAllString(console, "\n")); said != "" {
		return said
	}
	return console
}

// questions is last lines that wait for somebody.
var questions = []*regexp.Regexp{
	regexp.MustCompile(`^Prompt: .*>$`),                // debian-installer
	regexp.MustCompile(`(?i)\by(es)?/n(o)?\b.{0,10}$`), // and its like
	regexp.MustCompile(`(?i)\b(press|hit) .*\b(key|enter|return)\b.*$`),
	regexp.MustCompile(`\? *([\[(<].*[\])>])? *:?$`),              // setup-alpine
	regexp.MustCompile(`(?i)\b(choice|selection|password)\b.*:$`), // Anaconda
	regexp.MustCompile(`^\S* ?login:$`),
	regexp.MustCompile(`^[^\s#$]{0,60} ?[#$]$`), // a shell
	regexp.MustCompile(`^\(initramfs\)$`),
}

// failures is what an installer says that has failed.
var failures = regexp.MustCompile(`(?im)^[^\n]*(\b(download|installation|fetch)(ing)?\b[^\n]{0,80}\bfailed\b|\bfailed to (download|fetch|retrieve)\b|\bcould not (resolve|connect)\b|\bunable to (fetch|connect|resolve)\b|\bwget: (bad|can't|server|download)|\bcurl: \(\d|\b404 not found\b|!! ERROR:)[^\n]*$`)

// nearEnd is how many lines back a failure explains the end.
const nearEnd = 8

// Judge is how an installer has failed that will not go on by itself, nil while it may.
func Judge(s State) error {
	end := lastLines(s.Console, nearEnd)
	failure := strings.TrimSpace(failures.FindString(end))
	switch {
	case s.Off && failure != "":
		return fmt.Errorf("the installer has failed: %s", failure)
	case s.Off || s.Silent < Grace && s.Silent < s.Limit:
		return nil
	}
	last := strings.TrimSpace(lastLines(s.Console, 1))
	for _, question := range questions {
		if question.MatchString(last) {
			return fmt.Errorf("the installer asks, and nobody answers: %s", asked(s.Console))
		}
	}
	switch {
	case s.Silent < s.Limit:
		return nil
	case failure != "":
		return fmt.Errorf("the installer has failed, and stands still: %s", failure)
	case last == "":
		return fmt.Errorf("standstill: the installer said nothing on the serial console for %s", s.Limit)
	default:
		return fmt.Errorf("standstill: the installer said nothing for %s after: %s", s.Limit, last)
	}
}

// underlined is the title of a question of debian-installer's.
var underlined = regexp.MustCompile(`(?m)^(\S[^\n]*)\n-{4,}$`)

// sentence is the first one of a text.
var sentence = regexp.MustCompile(`^.{1,300}?[.:?](?: |$)`)

// asked is what a question at the end of a console is called.
func asked(console string) string {
	last := strings.TrimSpace(lastLines(console, 1))
	if !strings.HasPrefix(last, "Prompt:") {
		return last
	}
	const back = 60 // lines that a question has at most
	titles := underlined.FindAllStringSubmatch(lastLines(console, back), -1)
	if titles == nil {
		return last
	}
	title := titles[len(titles)-1]
	text := console[strings.LastIndex(console, title[0])+len(title[0]):]
	if end := sentence.FindString(strings.ReplaceAll(strings.TrimSpace(text), "\n", " ")); end != "" {
		return title[1] + ": " + strings.TrimSpace(end)
	}
	return title[1]
}

// step is a line of debian-installer's that tells what it does, and how far it is.
var step = regexp.MustCompile(`(?m)^(\S[^\n]*?)(?: *\.\.\.)? +\.\.\. \d+%`)

// Step is what the installer does, as the end of its console tells; "" where it does not.
func Step(console string) string {
	if steps := step.FindAllStringSubmatch(console, -1); steps != nil {
		return strings.TrimRight(steps[len(steps)-1][1], ". ")
	}
	return ""
}

// Last is the last line of a console that is the installer's own, "" for none.
func Last(console string) string {
	last := strings.TrimSpace(lastLines(console, 1))
	if kernelMessage.MatchString(last) {
		return ""
	}
	return last
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
