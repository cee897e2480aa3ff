package main

import (
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/valyala/fastjson"
	"google.golang.org/protobuf/types/known/structpb"

	entityv1 "entityservice/gen/entity/v1"
)

// --- What is stored, to messages -----------------------------------------------------------------

func readStruct(parser *fastjson.Parser, text []byte) (*structpb.Struct, error) {
	value, err := parser.ParseBytes(text)
	if err != nil {
		return nil, err
	}
	object, err := value.Object()
	if err != nil {
		return nil, err
	}
	return structOf(object), nil
}

// Nil where it is empty: that is how an unset one is stored.
func structOf(object *fastjson.Object) *structpb.Struct {
	if object.Len() == 0 {
		return nil
	}
	return &structpb.Struct{Fields: fieldsOf(object)}
}

func fieldsOf(object *fastjson.Object) map[string]*structpb.Value {
	fields := make(map[string]*structpb.Value, object.Len())
	object.Visit(func(key []byte, value *fastjson.Value) { fields[string(key)] = valueOf(value) })
	return fields
}

func valueOf(value *fastjson.Value) *structpb.Value {
	switch value.Type() {
	case fastjson.TypeString:
		return structpb.NewStringValue(textOf(value))
	case fastjson.TypeNumber:
		number, _ := value.Float64()
		return structpb.NewNumberValue(number)
	case fastjson.TypeTrue, fastjson.TypeFalse:
		return structpb.NewBoolValue(value.Type() == fastjson.TypeTrue)
	case fastjson.TypeArray:
		items := value.GetArray()
		values := make([]*structpb.Value, len(items))
		for i, item := range items {
			values[i] = valueOf(item)
		}
		return structpb.NewListValue(&structpb.ListValue{Values: values})
	case fastjson.TypeObject:
		return structpb.NewStructValue(&structpb.Struct{Fields: fieldsOf(value.GetObject())})
	default:
		return structpb.NewNullValue()
	}
}

// A copy: the parser's own text is overwritten by what it reads next.
func textOf(value *fastjson.Value) string { return string(value.GetStringBytes()) }

// The listed keys of a person or company, and all others as additional ones.
func readEntityData(parser *fastjson.Parser, kind entityv1.EntityType, text []byte) (*entityv1.EntityData, error) {
	if text == nil {
		return nil, nil
	}
	value, err := parser.ParseBytes(text)
	if err != nil {
		return nil, err
	}
	object, err := value.Object()
	if err != nil {
		return nil, err
	}
	switch kind {
	case entityv1.EntityType_ENTITY_TYPE_PERSON:
		return &entityv1.EntityData{Kind: &entityv1.EntityData_Person{Person: personOf(object)}}, nil
	case entityv1.EntityType_ENTITY_TYPE_COMPANY:
		return &entityv1.EntityData{Kind: &entityv1.EntityData_Company{Company: companyOf(object)}}, nil
	default:
		return nil, fmt.Errorf("an entity of type %v has data", kind)
	}
}

func personOf(object *fastjson.Object) *entityv1.PersonData {
	person := &entityv1.PersonData{}
	object.Visit(func(key []byte, value *fastjson.Value) {
		switch string(key) {
		case "firstName":
			person.FirstName = optional(value)
		case "lastName":
			person.LastName = optional(value)
		case "middleName":
			person.MiddleName = optional(value)
		case "dateOfBirth":
			person.DateOfBirth = optional(value)
		case "nationality":
			person.Nationality = optional(value)
		case "email":
			person.Email = optional(value)
		case "phone":
			person.Phone = optional(value)
		case "address":
			person.Address = addressOf(value.GetObject())
		default:
			person.Additional = with(person.Additional, key, value)
		}
	})
	return person
}

func companyOf(object *fastjson.Object) *entityv1.CompanyData {
	company := &entityv1.CompanyData{}
	object.Visit(func(key []byte, value *fastjson.Value) {
		switch string(key) {
		case "legalName":
			company.LegalName = optional(value)
		case "tradingNames":
			for _, name := range value.GetArray() {
				company.TradingNames = append(company.TradingNames, textOf(name))
			}
		case "registrationNumber":
			company.RegistrationNumber = optional(value)
		case "incorporationDate":
			company.IncorporationDate = optional(value)
		case "industry":
			company.Industry = optional(value)
		case "employees":
			employees := int32(value.GetInt())
			company.Employees = &employees
		case "website":
			company.Website = optional(value)
		case "address":
			company.Address = addressOf(value.GetObject())
		default:
			company.Additional = with(company.Additional, key, value)
		}
	})
	return company
}

func addressOf(object *fastjson.Object) *entityv1.Address {
	address := &entityv1.Address{}
	object.Visit(func(key []byte, value *fastjson.Value) {
		switch string(key) {
		case "street":
			address.Street = optional(value)
		case "city":
			address.City = optional(value)
		case "state":
			address.State = optional(value)
		case "country":
			address.Country = optional(value)
		case "postalCode":
			address.PostalCode = optional(value)
		default:
			address.Additional = with(address.Additional, key, value)
		}
	})
	return address
}

func optional(value *fastjson.Value) *string {
	text := textOf(value)
	return &text
}

func with(additional *structpb.Struct, key []byte, value *fastjson.Value) *structpb.Struct {
	if additional == nil {
		additional = &structpb.Struct{Fields: map[string]*structpb.Value{}}
	}
	additional.Fields[string(key)] = valueOf(value)
	return additional
}

// --- Messages, to what is stored -----------------------------------------------------------------

func appendFields(text []byte, fields map[string]*structpb.Value) []byte {
	text = append(text, '{')
	isFirst := true
	for key, value := range fields {
		if !isFirst {
			text = append(text, ',')
		}
		isFirst = false
		text = append(appendText(text, key), ':')
		text = appendValue(text, value)
	}
	return append(text, '}')
}

func appendValue(text []byte, value *structpb.Value) []byte {
	switch kind := value.GetKind().(type) {
	case *structpb.Value_StringValue:
		return appendText(text, kind.StringValue)
	case *structpb.Value_NumberValue:
		return appendNumber(text, kind.NumberValue)
	case *structpb.Value_BoolValue:
		return strconv.AppendBool(text, kind.BoolValue)
	case *structpb.Value_StructValue:
		return appendFields(text, kind.StructValue.GetFields())
	case *structpb.Value_ListValue:
		text = append(text, '[')
		for i, item := range kind.ListValue.GetValues() {
			if i > 0 {
				text = append(text, ',')
			}
			text = appendValue(text, item)
		}
		return append(text, ']')
	default:
		return append(text, "null"...)
	}
}

func appendNumber(text []byte, number float64) []byte {
	if size := math.Abs(number); size != 0 && (size < 1e-6 || size >= 1e21) {
		return strconv.AppendFloat(text, number, 'e', -1, 64)
	}
	return strconv.AppendFloat(text, number, 'f', -1, 64)
}

// A JSON string of valid UTF-8.
func appendText(text []byte, value string) []byte {
	const hex = "0123456789abcdef"
	text = append(text, '"')
	start := 0
	for i := range len(value) {
		b := value[i]
		if b >= ' ' && b != '"' && b != '\\' || b >= utf8.RuneSelf {
			continue
		}
		text = append(text, value[start:i]...)
		start = i + 1
		if b == '"' || b == '\\' {
			text = append(text, '\\', b)
		} else {
			text = append(text, '\\', 'u', '0', '0', hex[b>>4], hex[b&0xf])
		}
	}
	text = append(text, value[start:]...)
	return append(text, '"')
}
