// A minimal registrar over net/http as the baseline of the row http-registration. Needs nothing but
// the standard library, so there is no go.sum.
module bench/registrar

go 1.24
