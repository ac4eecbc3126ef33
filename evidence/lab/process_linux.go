package lab

import (
	"os/exec"
	"runtime"
	"syscall"
)

// attributes keep a terminal's signals from the process, and end it with this
// one, however that ends.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// launch starts cmd from a thread that lives as long as this process: the
// kernel sends the signal when the thread that started the process ends.
func launch(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		started <- cmd.Start()
		select {}
	}()
	return <-started
}
