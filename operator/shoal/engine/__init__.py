"""The reconcile machinery: reflector, work queue, expectations, event recorder, leader election."""
