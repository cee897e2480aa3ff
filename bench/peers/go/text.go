package main

import (
	"math"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

// Limits of values: those of the service, in code points unless said otherwise.
const (
	maxExternalID  = 255
	maxName        = 512
	maxReason      = 4000
	maxText        = 4096
	maxKey         = 128
	maxKeys        = 200
	maxLevels      = 32
	maxStructBytes = 64 * 1024
	maxInteger     = 1<<53 - 1
)

type textKind int

const (
	// Of any number of lines.
	freeText textKind = iota
	// A line that has something to show.
	nameText
	// A line of nothing invisible.
	identifierText
)

func invalid(field, description string) error {
	return status.Error(codes.InvalidArgument, field+": "+description)
}

func trim(text string) string {
	return strings.TrimFunc(text, func(r rune) bool { return unicode.IsSpace(r) || r == '\ufeff' })
}

// What is wrong with a text, if anything. Most are ASCII, of which a look at each byte is enough.
func textProblem(text string, max int, kind textKind) string {
	isVisible := false
	for i := range len(text) {
		b := text[i]
		if b >= utf8.RuneSelf || b == 0x7f || b < ' ' {
			return runesProblem(text, max, kind)
		}
		isVisible = isVisible || b != ' '
	}
	return lengthOrBlank(len(text), max, kind, isVisible)
}

func runesProblem(text string, max int, kind textKind) string {
	if !utf8.ValidString(text) {
		return "must be UTF-8"
	}
	count, isVisible := 0, false
	for _, r := range text {
		count++
		isIgnorable := unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector, unicode.Cf) ||
			r == '\u2800' || r == '\u034f'
		switch {
		case unicode.IsControl(r) && !(kind == freeText && (r == '\t' || r == '\n' || r == '\r')):
			return "must not contain control characters"
		case unicode.Is(unicode.Noncharacter_Code_Point, r):
			return "must not contain Unicode noncharacters"
		case kind != freeText && (r == '\u2028' || r == '\u2029'):
			return "must be one line"
		case kind == nameText && (r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069'):
			return "must not contain bidirectional control characters"
		case kind == identifierText && isIgnorable:
			return "must not contain invisible characters"
		}
		isVisible = isVisible || !isIgnorable && unicode.In(r, unicode.L, unicode.N, unicode.P, unicode.S)
	}
	return lengthOrBlank(count, max, kind, isVisible)
}

func lengthOrBlank(length, max int, kind textKind, isVisible bool) string {
	if length > max {
		return "is too long"
	}
	if kind == nameText && !isVisible {
		return "must have a character that shows, such as a letter or a digit"
	}
	return ""
}

// What is wrong with a Struct of a request, if anything.
func structProblem(fields map[string]*structpb.Value, level int) string {
	if len(fields) > maxKeys {
		return "must not have more than 200 keys"
	}
	for key, value := range fields {
		if key == "" || strings.ContainsAny(key, `."`) || textProblem(key, maxKey, identifierText) != "" {
			return "has a key that cannot be one"
		}
		if problem := valueProblem(value, level); problem != "" {
			return problem
		}
	}
	return ""
}

func valueProblem(value *structpb.Value, level int) string {
	if level > maxLevels {
		return "must not be nested deeper than 32 levels"
	}
	switch kind := value.GetKind().(type) {
	case *structpb.Value_StringValue:
		return textProblem(kind.StringValue, maxText, freeText)
	case *structpb.Value_NumberValue:
		number := kind.NumberValue
		if math.IsNaN(number) || math.IsInf(number, 0) {
			return "must be a finite number"
		}
		if math.Trunc(number) == number && math.Abs(number) > maxInteger {
			return "is an integer too large to be exact: send it as a string"
		}
	case *structpb.Value_StructValue:
		return structProblem(kind.StructValue.GetFields(), level+1)
	case *structpb.Value_ListValue:
		for _, item := range kind.ListValue.GetValues() {
			if problem := valueProblem(item, level+1); problem != "" {
				return problem
			}
		}
	}
	return ""
}
