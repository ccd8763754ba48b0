package host

import (
	"fmt"
	"os"
	"strings"
)

// AvailableMemory is the memory that new processes can have, in bytes; 0 where
// the kernel does not tell.
func AvailableMemory() int64 {
	content, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(content)) {
		var kilobytes int64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kilobytes); n == 1 {
			return kilobytes << 10
		}
	}
	return 0
}
