package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"certctl/evidence"
	"certctl/evidence/tested"
)

// A sourceTree is where the tests are that claims cite.
type sourceTree struct {
	dir  string
	code string // hash of it; empty if there is none
	why  error  // why its tests cannot be run
}

// sourceOf finds the source tree of the servers that were built of the commit.
func sourceOf(cmd *cobra.Command, commit string) (t sourceTree) {
	root, err := openTree(cmd)
	if err != nil {
		t.why = errors.New("there is no source tree")
		return t
	}
	t.dir = root.Name()
	root.Close()
	if t.code, err = tested.Code(os.DirFS(t.dir)); err != nil {
		t.why = errors.New("the source tree cannot be read")
		return t
	}
	// A tree without git says nothing of its commit.
	describe := exec.CommandContext(cmd.Context(), "git", "describe", "--always", "--abbrev=40", "--exclude", "*", "--dirty")
	describe.Dir = t.dir
	out, err := describe.Output()
	if at := strings.TrimSpace(string(out)); err == nil && commit != "" && at != commit {
		t.why = fmt.Errorf("the source tree is at %s, and the servers were built of %s", at, commit)
	}
	return t
}

// tests runs cited tests in the tree.
func (t sourceTree) tests(ctx context.Context, cited []evidence.Test) ([]evidence.TestRecord, error) {
	if t.why != nil {
		return nil, t.why
	}
	return tested.Run(ctx, t.dir, cited)
}
