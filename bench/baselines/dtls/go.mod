// Pion's DTLS and SCTP as the baseline of the row relay-dtls.
module bench/dtls

go 1.24

require (
	github.com/pion/dtls/v3 v3.0.11
	github.com/pion/logging v0.2.4
	github.com/pion/sctp v1.8.37
)

require (
	github.com/pion/randutil v0.1.0 // indirect
	github.com/pion/transport/v3 v3.0.7 // indirect
	github.com/pion/transport/v4 v4.0.1 // indirect
	golang.org/x/crypto v0.32.0 // indirect
)
