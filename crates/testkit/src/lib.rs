//! Real servers, workloads, fault injection and the reconciler for the tests
