"""Expected values are what docker 28's command line printed for the same templates."""

from __future__ import annotations

import pytest

from lamella.errors import InvalidArgument
from lamella.model.goprint import quote, sprint, unquote
from lamella.model.gotemplate import Template, render

VALUE = {
    "Id": "sha256:abc",
    "RepoTags": ["t:1", "t:2"],
    "RootFS": {"Type": "layers", "Layers": ["a", "b"]},
    "Config": {
        "Cmd": ["-c", "echo hi > /f"],
        "Entrypoint": None,
        "Volumes": None,
        "StopTimeout": None,
        "Labels": {"x.y": "1", "z": "2"},
        "ExposedPorts": {"80/tcp": {}},
        "Env": [],
    },
    "GraphDriver": {"Data": {"LowerDir": "/l"}, "Name": "overlay2"},
    "NetworkSettings": {"Networks": {"none": {"IPAddress": ""}}},
    "N": 3,
    "T": True,
    "F": 1.5,
    "Size": 1234567,
    "Label": lambda key: f"<{key}>",
}


@pytest.mark.parametrize(
    ("template", "output"),
    [
        ("plain", "plain"),
        ("{{.Id}}", "sha256:abc"),
        ("{{ .RootFS.Layers }}", "[a b]"),
        ("{{.Config.Labels}}", "map[x.y:1 z:2]"),
        ("{{json .Config.Cmd}}", '["-c","echo hi > /f"]'),
        ("{{json .RootFS}}", '{"Type":"layers","Layers":["a","b"]}'),
        ('{{json "<a>&é\u2028"}}', '"<a>&é\\u2028"'),
        ("{{.Config.ExposedPorts}}", "map[80/tcp:map[]]"),
        ("{{.N}} {{.T}} {{.F}} {{.Size}}", "3 true 1.5 1234567"),
        ("{{.Config.Entrypoint}}|{{.Config.Volumes}}|{{.Config.StopTimeout}}", "[]|map[]|<nil>"),
        ("{{.Config.Labels.nope}}", "<no value>"),
        ("{{.GraphDriver.Data.Nope}}", "<no value>"),
        ("{{.NetworkSettings.Networks.zz.IPAddress}}", "<no value>"),
        ('{{index .Config.Labels "x.y"}}|{{index .Config.Labels "zz"}}|', "1||"),
        ('{{index .RootFS.Layers 1}} {{index "abc" 1}}', "b 98"),
        ("{{len .RootFS.Layers}} {{len .Config.Entrypoint}} {{len .Id}}", "2 0 10"),
        ('{{join .RootFS.Layers ", "}}', "a, b"),
        ('{{range .RootFS.Layers}}{{.}}{{"\\n"}}{{end}}', "a\nb\n"),
        ("{{range $i, $e := .RootFS.Layers}}{{$i}}={{$e}} {{end}}", "0=a 1=b "),
        ("{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}} {{end}}", "x.y:1 z:2 "),
        ("{{range .Config.Env}}x{{else}}none{{end}}", "none"),
        ("{{range .Config.Entrypoint}}x{{else}}none{{end}}", "none"),
        ("{{range 3}}{{if eq . 1}}{{continue}}{{end}}{{.}}{{end}}", "02"),
        ("{{range 3}}{{if eq . 1}}{{break}}{{end}}{{.}}{{end}}", "0"),
        ("{{if .T}}a{{else}}b{{end}}{{if .Config.Env}}a{{else}}b{{end}}", "ab"),
        ("{{if eq .N 1}}one{{else if eq .N 3}}three{{else}}many{{end}}", "three"),
        ("{{with .Config}}{{.Cmd}} {{$.Id}}{{end}}", "[-c echo hi > /f] sha256:abc"),
        ('{{with ""}}a{{else}}b{{end}}', "b"),
        ("{{with .Config.Env}}a{{else with .N}}{{.}}{{end}}", "3"),
        ("{{$x := .N}}{{$x}}{{$x = 4}}{{$x}}", "34"),
        ("{{$x := 1}}{{if .T}}{{$x = 2}}{{$x := 3}}{{$x}}{{end}}{{$x}}", "32"),
        ("{{.Id | upper | lower | title}}", "Sha256:Abc"),
        ('{{.Label "k"}} {{"k" | .Label}}', "<k> <k>"),
        ("{{(index .RootFS.Layers 0) | printf `%s!`}}", "a!"),
        ("{{(.Config).Labels.z}}", "2"),
        ('{{slice .Id 0 6}} {{slice "abc" 2}} {{slice .RepoTags 1}}', "sha256 c [t:2]"),
        ('{{truncate "abcdef" 3}} {{truncate "ab" 5}}', "abc ab"),
        ('{{pad "a" 2 3}}|{{pad "" 2 3}}|', "  a   ||"),
        ('{{split "a,b,c" ","}} {{len (split "" ",")}}', "[a b c] 1"),
        ('{{title "hELLO wORLD-foo bar_baz it\'s"}}', "HELLO WORLD-Foo Bar_baz It'S"),
        ("a {{- .N -}} b  {{- /* c */ -}}  d{{/* e */}}f", "a3bdf"),
        ("{{3 -}} b {{- 3}}", "3b3"),
        ("{{print 1 2 `a` `b` 3}}|{{println 1 `a`}}", "1 2ab3|1 a\n"),
        ("{{and .T .N}} {{or .Config.Env .N}} {{not .T}} {{and 0 (index .Config.Env 9)}}", "3 3 false 0"),
        ('{{eq 1 2 3 1}} {{ne 1 2}} {{lt "a" "b"}} {{le 1 1}} {{gt 1 2}} {{ge 2 1}}', "true true true true false true"),
        ('{{html "<a href=\'x\'>&\\""}}', "&lt;a href=&#39;x&#39;&gt;&amp;&#34;"),
        ('{{urlquery "a b&c/d"}}', "a+b%26c%2Fd"),
        ("{{0x1F}} {{0b11}} {{0o17}} {{1_000}} {{'a'}} {{1e6}} {{1.50}} {{-3}}", "31 3 15 1000 97 1e+06 1.5 -3"),
        ('{{"\\x41\\u00e9\\101\\"" }}', 'AéA"'),
        ("{{.Id}}}", "sha256:abc}"),
        ("{{ true }}{{false}}", "truefalse"),
        ("{{\n.N\n}}", "3"),
    ],
)
def test_templates_are_rendered(template: str, output: str) -> None:
    assert render(template, VALUE) == output


@pytest.mark.parametrize(
    ("template", "output"),
    [
        ('{{printf "%s|%-5s|%5s|%05s|%.2s" "abc" "abc" "abc" "abc" "abc"}}', "abc|abc  |  abc|00abc|ab"),
        ('{{printf "%d|%5d|%-5d|%05d|%+d|%.2d|% d" 3 3 3 3 3 3 3}}', "3|    3|3    |00003|+3|03| 3"),
        ('{{printf "%v %v %v %v" 1e3 1.0 true "x"}}', "1000 1 true x"),
        ('{{printf "%g %g %g %g" 123456789.0 100000000.5 1e-7 1e21}}', "1.23456789e+08 1.000000005e+08 1e-07 1e+21"),
        ('{{printf "%6.2f|%-10.3e|%g" 3.14159 31415.9 1e-5}}', "  3.14|3.142e+04 |1e-05"),
        (
            '{{printf "%q %q %x %X %#x %o %b %c %U" "a\\"b" 65 255 255 255 8 5 65 65}}',
            '"a\\"b" \'A\' ff FF 0xff 10 101 A U+0041',
        ),
        ('{{printf "%x %X" "aé" "aé"}}', "61c3a9 61C3A9"),
        ('{{printf "%T %T %T %T" 1 "a" 1.5 true}}', "int string float64 bool"),
        ('{{printf "%s %q" (split "a,b" ",") (split "a,b" ",")}}', '[a b] ["a" "b"]'),
        ('{{printf "%d" "abc"}}', "%!d(string=abc)"),
        ('{{printf "%8d|%+s|%.2d" "abc" 3 1e6}}', "%!d(string=     abc)|%!s(int=+3)|%!d(float64=1e+06)"),
        ('{{printf "%d %s" 1}}', "1 %!s(MISSING)"),
        ('{{printf "a" 1 "b"}}', "a%!(EXTRA int=1, string=b)"),
        ('{{printf "%"}}', "%!(NOVERB)"),
        ('{{printf "%*d|%-*d|%.*f" 5 3 5 3 1 2.55}}', "    3|3    |2.5"),
        ('{{printf "%[2]s %[1]s %[9]s" "a" "b"}}', "b a %!s(BADINDEX)"),
        ('{{printf "%d%%" 5}}', "5%"),
        ('{{printf "%t|%5t" true true}}', "true| true"),
        ('{{printf "%s" nil}}', "%!s(<nil>)"),
        ('{{"a" | printf "%s-%s" "b"}}', "b-a"),
    ],
)
def test_printf_is_gos(template: str, output: str) -> None:
    assert render(template, None) == output


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{.Id", ":1: unclosed action"),
        ("a\n{{foo}}", ':2: function "foo" not defined'),
        ("{{}}", ":1: missing value for command"),
        ("{{if}}", ":1: missing value for if"),
        ("{{if .N}}", ":1: unexpected EOF"),
        ("{{if .N}}{{else}}", ":1: unexpected EOF"),
        ("{{end}}", ":1: unexpected {{end}}"),
        ("{{else}}", ":1: unexpected {{else}}"),
        ("{{if 1}}{{else}}{{else}}{{end}}", ":1: expected end; found {{else}}"),
        ("{{break}}", ":1: {{break}} outside {{range}}"),
        ("{{1 | 2}}", ":1: non executable command in pipeline stage 2"),
        ("{{$x}}", ':1: undefined variable "$x"'),
        ("{{$x = 1}}", ':1: undefined variable "$x"'),
        ("{{with $y := 1}}{{$y}}{{end}}{{$y}}", ':1: undefined variable "$y"'),
        ("{{(}}", ":1: unclosed left paren"),
        ("{{)}}", ":1: unexpected right paren"),
        ('{{"a}}', ":1: unterminated quoted string"),
        ("{{`a}}", ":1: unterminated raw quoted string"),
        ('{{"\\q"}}', ":1: invalid syntax"),
        ("{{1a}}", ':1: bad number syntax: "1a"'),
        ('{{"x".Y}}', ':1: unexpected . after term "\\"x\\""'),
        ("{{/* a }}", ":1: unclosed comment"),
        ("{{/* a */ 1}}", ":1: comment ends before closing delimiter"),
        ("{{|1}}", ':1: unexpected "|" in command'),
        ('{{define "x"}}', ":1: {{define}} is not supported"),
        ("{{" + "(" * 99 + "1" + ")" * 99 + "}}", ":1: nested deeper than 40 levels"),
        ("{{.Nope}}", ':1:2: executing "" at <.Nope>: map has no entry for key "Nope"'),
        ("{{.Config.Nope}}", ':1:9: executing "" at <.Config.Nope>: map has no entry for key "Nope"'),
        ("é\né{{.Nope}}", ':2:4: executing "" at <.Nope>: map has no entry for key "Nope"'),
        ('{{.Id "x"}}', ':1:2: executing "" at <.Id>: Id is not a method but has arguments'),
        ("{{.Label}}", ':1:2: executing "" at <.Label>: wrong number of args for Label'),
        ("{{.Id.X}}", ':1:5: executing "" at <.Id.X>: can\'t evaluate field X in type string'),
        ("{{lower}}", ':1:2: executing "" at <lower>: wrong number of args for lower: want 1 got 0'),
        (
            "{{lower 3}}",
            ':1:2: executing "" at <lower>: error calling lower: wrong type for value; expected string; got int',
        ),
        ('{{eq 1 "a"}}', ':1:2: executing "" at <eq>: error calling eq: incompatible types for comparison'),
        ("{{eq . .}}", ':1:2: executing "" at <eq>: error calling eq: non-comparable type'),
        ("{{index .RootFS.Layers 9}}", ':1:2: executing "" at <index>: error calling index: index out of range: 9'),
        ('{{slice "abc" 2 1}}', ':1:2: executing "" at <slice>: error calling slice: invalid slice index: 2 > 1'),
        ("{{len 3}}", ':1:2: executing "" at <len>: error calling len: len of type int'),
        ('{{"a" "b"}}', ':1:2: executing "" at <"a">: can\'t give argument to non-function "a"'),
        ("{{nil}}", ':1:2: executing "" at <nil>: nil is not a command'),
        ("{{range .Id}}{{end}}", ':1:8: executing "" at <.Id>: range can\'t iterate over sha256:abc'),
        ("{{range 10000000}}{{end}}", ':1:8: executing "" at <10000000>: range goes on for more than 1000000 turns'),
    ],
)
def test_errors_have_gos_words(template: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        render(template, VALUE)
    assert str(caught.value).startswith(f"template parsing error: template: {message}")


def test_a_template_is_parsed_once_for_many_rows() -> None:
    template = Template("{{.A}} {{range .B}}{{.}}{{end}};")
    assert "".join(template.render(row) for row in ({"A": 1, "B": [2]}, {"A": 3, "B": []})) == "1 2;3 ;"


def test_a_row_of_strings_is_a_struct() -> None:
    with pytest.raises(InvalidArgument, match='no entry for key "Foo"'):
        render("{{.Foo}}", {"ID": "x"})


def test_methods_are_left_out_of_json() -> None:
    assert render("{{json .}}", {"ID": "x", "Label": lambda key: key}) == '{"ID":"x"}'


def test_attributes_serve_as_fields_but_private_ones_do_not() -> None:
    class Row:
        ID = "x"
        _secret = "y"

    assert render("{{.ID}}", Row()) == "x"
    with pytest.raises(InvalidArgument, match="can't evaluate field"):
        render("{{._secret}}", Row())
    with pytest.raises(InvalidArgument, match="can't evaluate field"):
        render("{{.ID.format}}", Row())


def test_literals_are_quoted_and_read_back() -> None:
    text = 'a"b\\\n\x01\u200b\U0001f600é'
    assert quote(text) == '"a\\"b\\\\\\n\\x01\\u200b\U0001f600é"'
    assert unquote(quote(text)[1:-1]) == text
    assert unquote("\\ud800") is None
    assert unquote("\\400") is None
    assert sprint([1, 2, "a", 3]) == "1 2a3"
