//go:build !linux

package lab

import (
	"os/exec"
	"syscall"
)

// attributes keep a terminal's signals from the process.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func launch(cmd *exec.Cmd) error { return cmd.Start() }
