package local

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// guardScript waits for the end of its standard input and then ends the
// PostgreSQL on a data directory and removes directories.
//
//go:embed guard.sh
var guardScript string

// A guard outlives us by as much as it takes to clean up behind us.
type guard struct {
	cmd *exec.Cmd
	// life is the writing end of the guard's standard input. Only this process
	// holds it, so it closes when the process ends, however it ends.
	life *os.File
}

func startGuard(data string, first syscall.Signal, remove []string) (*guard, error) {
	stdin, life, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	// Two seconds, as what a killed owner leaves is to be gone within five.
	cmd := script(context.Background(), data, first, 2, remove...)
	cmd.Stdin = stdin
	if err := cmd.Start(); err != nil {
		life.Close()
		return nil, fmt.Errorf("start the guard: %w", err)
	}
	return &guard{cmd, life}, nil
}

// dismiss lets the guard go and waits for it.
func (g *guard) dismiss() {
	g.life.Close()
	_ = g.cmd.Wait() // it did what it could
}

// end ends the PostgreSQL on data, whoever started it.
func end(ctx context.Context, data string, first syscall.Signal) error {
	if err := script(ctx, data, first, 5).Run(); err != nil {
		return fmt.Errorf("end the PostgreSQL on %s: %w", data, err)
	}
	return nil
}

func script(ctx context.Context, data string, first syscall.Signal, patience int, remove ...string) *exec.Cmd {
	args := append([]string{"-c", guardScript, "certctl-guard", data, strconv.Itoa(int(first)), strconv.Itoa(patience)}, remove...)
	cmd := exec.CommandContext(ctx, "sh", args...)
	cmd.Dir = "/"
	// A session of its own: no terminal and no signal to our group reaches it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}
