// Package broker is the one door to Kafka: what Sillage says to a broker, and
// nothing that it decides.
//
// It stands on kafka-go's transport (connections, routing by leader and
// coordinator, SASL, TLS) and brings what that library lacks: an idempotent
// producer that encodes once and sends the same bytes until they are
// acknowledged, a fetch of the full protocol version that decodes whole
// batches, commits with metadata, and the id of a topic.
package broker
