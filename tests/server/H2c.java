import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.CompletableFuture;
import java.util.stream.IntStream;

/** Java's own client, which asks for HTTP/2 with its first request: `java H2c.java BASE PATH BODY_FILE`. */
public class H2c {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        String body = Files.readString(Path.of(arguments[2]));
        HttpRequest infer = HttpRequest.newBuilder(URI.create(arguments[0] + arguments[1]))
            .header("Content-Type", "application/json").POST(HttpRequest.BodyPublishers.ofString(body)).build();
        HttpRequest chunked = HttpRequest.newBuilder(URI.create(arguments[0] + arguments[1]))
            .POST(HttpRequest.BodyPublishers.fromPublisher(HttpRequest.BodyPublishers.ofString(body))).build();
        HttpRequest ready = HttpRequest.newBuilder(URI.create(arguments[0] + "/v2/health/ready")).build();
        for (HttpRequest request : new HttpRequest[] {infer, ready, chunked, infer}) {
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.body());
        }
        CompletableFuture<?>[] many = IntStream.range(0, 50).mapToObj(number ->
            client.sendAsync(infer, HttpResponse.BodyHandlers.ofString())
                .thenAccept(answer -> System.out.println(answer.statusCode() + " " + answer.body())))
            .toArray(CompletableFuture[]::new);
        CompletableFuture.allOf(many).join();
    }
}
