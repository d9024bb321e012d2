//go:build tools

// Package tools names the Karpenter that tests drive our NodeClaims with, so that go.mod and go.sum pin all it needs.
package tools

import (
	_ "sigs.k8s.io/karpenter/kwok"
)
