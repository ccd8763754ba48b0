package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/boottest"
	"github.com/btw-img/btw-img/orchestrator/machine"
	"github.com/btw-img/btw-img/orchestrator/text"
)

func newLogs() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs NAME",
		Short: "Print what the serial console of a test machine has said",
		Example: `  vmctl logs debian
  vmctl logs debian --follow`,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := openMachine(args[0])
			if err != nil {
				return err
			}
			return runLogs(cmd.Context(), cmd.OutOrStdout(), m, follow)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the machine ends")
	return cmd
}

const followEvery = 200 * time.Millisecond

func runLogs(ctx context.Context, out io.Writer, m machine.Machine, follow bool) error {
	file, err := os.Open(m.ConsoleLog())
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was never started
	}
	if err != nil {
		return err
	}
	defer file.Close()
	lines := lineReader{from: file}
	for {
		running := follow && m.Running()
		for {
			line, err := lines.next(!running)
			if err != nil {
				return err
			}
			if line == nil {
				break
			}
			fmt.Fprintln(out, text.Line(boottest.Plain([]byte(*line))))
		}
		if !running {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(followEvery):
		}
	}
}

const longestLine = 64 << 10 // bytes; more is another line

// lineReader reads the lines of a file that grows.
type lineReader struct {
	from io.Reader
	part []byte
}

// next is the next line, nil where there is none yet. What is no whole line is one at the
// end.
func (l *lineReader) next(end bool) (*string, error) {
	buffer := make([]byte, longestLine)
	for {
		for i, b := range l.part {
			if b == '\n' {
				line := string(l.part[:i])
				l.part = l.part[i+1:]
				return &line, nil
			}
		}
		n, err := l.from.Read(buffer)
		l.part = append(l.part, buffer[:n]...)
		whole := len(l.part) >= longestLine || end && n == 0 && len(l.part) > 0
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		case whole:
			line := string(l.part)
			l.part = nil
			return &line, nil
		case n == 0:
			return nil, nil
		}
	}
}
