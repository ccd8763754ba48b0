package host

import (
	"os"
	"strings"
)

// Processor is what the processors of this machine call themselves, "" where the kernel
// does not tell.
func Processor() string {
	content, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(content)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
