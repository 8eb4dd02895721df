# Reads the registry's answer (GET /api/v1/services/discover/<name>) and prints "address port weight" for each instance. A real
# JSON reader, small: instances carry metadata that others wrote, so text that only looks like an address must not count.
# Anything but an address, a port and a weight of the right form ends with exit code 2.

function fail(why) {
    print "instances.awk: " why >"/dev/stderr"
    failed = 1
    exit 2
}

# The next token of `text` into `token`; its kind is the result: one of { } [ ] : , or s (string), v (number or word), end.
function scan(    c) {
    match(text, /^[ \t\r\n]*/)
    text = substr(text, RLENGTH + 1)
    c = substr(text, 1, 1)
    if (c == "") return "end"
    if (index("{}[]:,", c)) {
        text = substr(text, 2)
        return c
    }
    if (c == "\"") {
        if (!match(text, /^"([^"\\]|\\.)*"/)) fail("the text breaks off inside a string")
        token = substr(text, 2, RLENGTH - 2)
        text = substr(text, RLENGTH + 1)
        return "s"
    }
    if (!match(text, /^[-+.0-9A-Za-z]+/)) fail("unexpected character " c)
    token = substr(text, 1, RLENGTH)
    text = substr(text, RLENGTH + 1)
    return "v"
}

# Reads one value at `depth`; `path` says where it stands: "/services/" is a member of the list of instances.
function value(kind, path, depth,    key) {
    if (depth > 32) fail("too deep")
    if (kind == "s" || kind == "v") {
        if (path == "/services//address" && kind == "s") address = token
        if (path == "/services//port" && kind == "v") port = token
        if (path == "/services//weight" && kind == "v") weight = token
        return
    }
    if (kind == "{") {
        if (path == "/services/") { address = ""; port = ""; weight = "1" }
        kind = scan()
        while (kind != "}") {
            if (kind != "s") fail("a key is missing")
            key = token
            if (scan() != ":") fail("a colon is missing")
            value(scan(), path "/" key, depth + 1)
            kind = scan()
            if (kind == ",") kind = scan()
            else if (kind != "}") fail("an object is not closed")
        }
        if (path == "/services/") instance()
        return
    }
    if (kind == "[") {
        kind = scan()
        while (kind != "]") {
            value(kind, path "/", depth + 1)
            kind = scan()
            if (kind == ",") kind = scan()
            else if (kind != "]") fail("a list is not closed")
        }
        return
    }
    fail("a value is missing")
}

function instance() {
    if (address !~ /^[0-9A-Za-z._:-]+$/ || length(address) > 253) fail("no address: " address)
    if (port !~ /^[0-9]+$/ || port + 0 < 1 || port + 0 > 65535) fail("no port: " port)
    if (weight !~ /^[0-9]+$/ || weight + 0 < 1) weight = 1
    if (address ~ /:/) address = "[" address "]"
    print address, port, weight
}

{ text = text $0 "\n" }

END {
    if (failed) exit 2
    value(scan(), "", 0)
    if (scan() != "end") fail("text after the answer")
}
