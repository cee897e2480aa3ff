package main

import (
	"fmt"

	"google.golang.org/grpc/mem"
)

// Messages by the code that vtprotobuf generated for them, without reflection.
type codec struct{}

type message interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVT([]byte) error
}

func (codec) Name() string { return "proto" }

func (codec) Marshal(value any) (mem.BufferSlice, error) {
	m, ok := value.(message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", value)
	}
	size := m.SizeVT()
	if mem.IsBelowBufferPoolingThreshold(size) {
		bytes := make([]byte, size)
		if _, err := m.MarshalToSizedBufferVT(bytes); err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(bytes)}, nil
	}
	pool := mem.DefaultBufferPool()
	bytes := pool.Get(size)
	if _, err := m.MarshalToSizedBufferVT((*bytes)[:size]); err != nil {
		pool.Put(bytes)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(bytes, pool)}, nil
}

func (codec) Unmarshal(data mem.BufferSlice, value any) error {
	m, ok := value.(message)
	if !ok {
		return fmt.Errorf("%T is no message", value)
	}
	bytes := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer bytes.Free()
	return m.UnmarshalVT(bytes.ReadOnlyData())
}
