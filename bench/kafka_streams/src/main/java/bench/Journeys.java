package bench;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * Kafka Streams: two topics merged by time, RocksDB, a changelog, one thread.
 *
 * The job is that of the sketch: the newest 50 clicks of a key, and the newest 25 of them at each conversion. State is a
 * packed binary value, as a Java program would have it: 1 byte count of clicks, 16 bytes each, then the conversions with
 * their journeys.
 */
public final class Journeys {
    static final String STORE = "states";
    static final int KEPT_CLICKS = 50;
    static final int JOURNEY_CLICKS = 25;
    static final int CLICK_BYTES = 16;

    private Journeys() {}

    /** Arguments: broker, clicks topic, conversions topic, partitions, group, folder. */
    public static void main(String[] args) {
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, args[4]);
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, args[5]);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 1000);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");

        Topology topology = new Topology();
        var bytes = Serdes.ByteArray();
        topology.addSource("clicks", bytes.deserializer(), bytes.deserializer(), args[1]);
        topology.addSource("conversions", bytes.deserializer(), bytes.deserializer(), args[2]);
        topology.addProcessor("journeys", () -> new Fold(args[1]), "clicks", "conversions");
        topology.addStateStore(
            Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(STORE), bytes, bytes)
                .withCachingEnabled()
                .withLoggingEnabled(Map.of()),
            "journeys");

        KafkaStreams app = new KafkaStreams(topology, settings);
        Runtime.getRuntime().addShutdownHook(new Thread(app::close));
        app.start();
    }

    /** One event at a time, as Kafka Streams hands them over. */
    static final class Fold implements Processor<byte[], byte[], Void, Void> {
        private final String clicksTopic;
        private final JsonFactory json = new JsonFactory();
        private ProcessorContext<Void, Void> context;
        private KeyValueStore<byte[], byte[]> states;
        private boolean isTold;
        private long clickId;
        private long convId;
        private long time;

        Fold(String clicksTopic) {
            this.clicksTopic = clicksTopic;
        }

        @Override
        public void init(ProcessorContext<Void, Void> context) {
            this.context = context;
            this.states = context.getStateStore(STORE);
        }

        @Override
        public void process(Record<byte[], byte[]> event) {
            if (!isTold) {
                tellFirst();
            }
            boolean isClick = context.recordMetadata().orElseThrow().topic().equals(clicksTopic);
            read(event.value(), isClick ? "click_time" : "conv_time");
            byte[] known = states.get(event.key());
            byte[] state = known == null ? new byte[] {0} : known;
            states.put(event.key(), isClick ? withClick(state) : withConversion(state));
        }

        private void tellFirst() {
            isTold = true;
            double cpu = ProcessHandle.current().info().totalCpuDuration().orElseThrow().toNanos() / 1e9;
            System.out.println("\nFIRST " + System.nanoTime() / 1e9 + " " + cpu);
        }

        /** All of the event is parsed, as the others do. */
        private void read(byte[] value, String timeName) {
            try (JsonParser parser = json.createParser(value)) {
                parser.nextToken();
                while (parser.nextToken() == JsonToken.FIELD_NAME) {
                    String name = parser.currentName();
                    parser.nextToken();
                    if (name.equals("click_id")) {
                        clickId = parser.getLongValue();
                    } else if (name.equals("conv_id")) {
                        convId = parser.getLongValue();
                    } else if (name.equals(timeName)) {
                        time = parser.getLongValue();
                    }
                }
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }

        /** In order of time and id; the oldest leaves when there are too many. */
        private byte[] withClick(byte[] state) {
            int count = state[0];
            ByteBuffer old = ByteBuffer.wrap(state);
            int place = count;
            while (place > 0 && isLater(old, place - 1)) {
                place--;
            }
            int dropped = count == KEPT_CLICKS ? 1 : 0;
            if (dropped == 1 && place == 0) {
                return state;
            }
            ByteBuffer found = ByteBuffer.allocate(state.length + (1 - dropped) * CLICK_BYTES);
            found.put((byte) (count + 1 - dropped));
            found.put(state, 1 + dropped * CLICK_BYTES, (place - dropped) * CLICK_BYTES);
            found.putLong(time).putLong(clickId);
            found.put(state, 1 + place * CLICK_BYTES, state.length - 1 - place * CLICK_BYTES);
            return found.array();
        }

        private boolean isLater(ByteBuffer state, int index) {
            long at = state.getLong(1 + index * CLICK_BYTES);
            return at > time || at == time && state.getLong(1 + index * CLICK_BYTES + 8) > clickId;
        }

        /** The journey is appended: id of the conversion, count, ids of the clicks. */
        private byte[] withConversion(byte[] state) {
            ByteBuffer old = ByteBuffer.wrap(state);
            int until = state[0];
            while (until > 0 && old.getLong(1 + (until - 1) * CLICK_BYTES) > time) {
                until--;
            }
            int from = Math.max(0, until - JOURNEY_CLICKS);
            ByteBuffer found = ByteBuffer.allocate(state.length + 9 + 8 * (until - from));
            found.put(state).putLong(convId).put((byte) (until - from));
            for (int index = from; index < until; index++) {
                found.putLong(old.getLong(1 + index * CLICK_BYTES + 8));
            }
            return found.array();
        }
    }
}
