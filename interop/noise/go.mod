module conjure/interop/noise

go 1.24

require (
	github.com/flynn/noise v1.1.0
	github.com/miekg/dns v1.1.62
	google.golang.org/protobuf v1.36.6
)

require (
	golang.org/x/crypto v0.25.0 // indirect
	golang.org/x/mod v0.18.0 // indirect
	golang.org/x/net v0.27.0 // indirect
	golang.org/x/sync v0.7.0 // indirect
	golang.org/x/sys v0.22.0 // indirect
	golang.org/x/tools v0.22.0 // indirect
)
