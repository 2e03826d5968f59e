"""What the codes E2xx and E4xx to E9xx mean: plans, steps, selection, deployments, the store, the machine."""

from __future__ import annotations

__all__ = ["RUN_CODES"]

RUN_CODES = """
E200 wrong usage
    The command line contains an unknown option, argument or command. `--help` lists the valid ones.
E201 no candidate
    Every combination of format and precision that the spec allows is ruled out; the notes give the reason for each. Allow
    another format or precision under `optimize`, or another `serving.backend`.
E202 a framework is not installed
    mlo's core installs without frameworks. The message gives the command that installs what this model needs.
E203 an input cannot be read
    A file that the plan depends on cannot be read.
E204 the model's digest differs from the spec
    `sha256` in the spec pins the model: the digest of its file or of its folder or, for an ONNX model with external data,
    the sha256 of the output of `sha256sum` for all its files, the model first. The model has a different digest, which
    the message shows. Restore the model, or pin the new digest.
E205 the accelerator is not available
    The spec asks for GPUs, and models are verified and measured on the machine that runs `mlo plan` and `mlo apply`. The
    message says what is missing: the card, its driver, the container's access to it, or enough of them. Plan and apply on
    a machine that has them; what `mlo render` writes there runs on any machine with such GPUs. `mlo validate` works
    everywhere.
E206 one name or place in two specs
    A deployment is known by the `metadata.name` of its spec. Of two specs with the same name, applied together, each would replace
    what the other has released, again at every run. Environments of one model belong into one spec, below `environments:`.
    A folder and a port can be of one deployment only, too.
E210 not a saved plan
    The file cannot be read or was not written by `mlo plan SPEC --out FILE`.
E211 a plan from another version
    This version of mlo cannot apply the format of the saved plan. Plan again.
E212 stale plan
    Something that the plan was made from has changed: the spec, a file, a tool, or what is deployed. A saved plan is
    applied exactly or not at all; plan again and review the difference.
E213 unknown step
    The plan has no step with this name. `mlo plan` lists the steps.
E214 options that a saved plan does not accept
    A saved plan is applied as it was reviewed, so options that would change it are refused.
E215 confirmation required
    Without a terminal, mlo cannot ask for confirmation. Add `--yes`, or apply a saved plan.
E216 the output folder cannot be used
    Rendered files are written to a new or empty folder, so that nothing is overwritten. `--force` replaces the files of
    an earlier render. `mlo report` writes one file, and replaces an earlier report only.
E217 nothing to explain
    `mlo explain` accepts an error code, a spec together with one of its steps, candidates or keys, or a deployment's name together
    with a candidate.
E218 the output folder was not written by mlo
    `mlo render --force` replaces the files of an earlier render, which are listed in `.mlo-rendered`. A folder without
    that file is never modified, no other file or folder is replaced, and no link is followed. Move what is in the way, or
    give a new or empty folder.
E219 declined
    The confirmation was declined, and nothing was changed. `--yes` applies without asking.
E280 a value that the chart does not take
    `deploy.values` sets a value that the chart does not have, or an object of Kubernetes under `deploy.pod` or `deploy.service`
    has a key, a type or a word that it cannot have. The chart's own schema decides, so Helm would refuse it too. docs/chart.md lists
    every value; objects of Kubernetes are written as in its own manual, without what pods may not have, such as `hostPath`.
E281 a value that is not to be set
    `deploy.values` names another image or another model. What is deployed is what was measured and proven, so these values come from
    the decision alone.
E282 keys that exclude each other
    With `deploy.ingress.gateway` an HTTPRoute is made, whose TLS and class are those of the Gateway. Without it an Ingress is made.
E283 a value that another key sets
    The name, the port of the Service and whether KServe runs it have keys of their own in the spec, by which mlo finds and follows what
    it has deployed. As values of the chart under `deploy.values` they would only be known to the chart.
E401 a step raised an error
    The step, or code that it called, raised an unexpected error. The log has the traceback, and `reproduce.sh` runs this
    step alone.
E402 a step timed out
    The step was stopped at its time limit. For a candidate's step, increase `optimize.time_budget` or try fewer candidates; the
    steps that read and call the model itself have a fixed time, which fewer samples and smaller `model.dims` help to keep.
E403 a step ran out of memory
    The step exceeded its memory limit, which for measurements is `hardware.memory`.
E404 a step's process died
    The process ended without a result: it was killed, or crashed in native code. The end of the log and `reproduce.sh`
    help to find out why.
E405 a file changed during a step
    A file was modified while the step was reading it. The result matches neither version and is discarded.
E406 a step was stopped
    Ctrl-C stopped the step. The next run continues from the steps that have finished.
E407 interrupted
    Ctrl-C ended the command. Finished steps are kept; run the same command again to continue.
E408 a step could not start
    A step that it depends on did not succeed; see the message of that step.
E409 the disk is full
    A step could not write its result. Results of earlier steps are kept. Free some space, or set MLO_HOME to a folder on
    another disk, and run the same command again.
E420 a variant cannot be loaded
    The runtime cannot load the converted model. The candidate is dropped; the others continue.
E421 number of outputs of a variant
    The converted model returns a different number of tensors than `model.outputs` declares.
E422 the model cannot be exported
    The exporter cannot turn the model's code into a graph, or the format has an operator of the same name that computes
    something else. The cause names the operator, the dimension or the line.
E423 a converted model differs from its source
    The converted model fails or answers differently. If it does so at some sizes of a dimension only,
    the message names the dimension: often the model's code uses a size as a constant. If it does so for single rows too,
    an operator computes something else for some values. If it does so at padded positions only, set the output there to a
    constant at the end of the model.
E424 an invalid ONNX file
    The exporter wrote a file that ONNX's checker rejects, or whose inputs and outputs differ from the declared ones.
E425 the model cannot be quantized
    The model has no operators that can be quantized to int8, or the quantizer failed.
E426 a variant fails on an input
    The variant raised an error for samples or edge cases that the original model handles.
E427 the accelerator cannot be used
    The runtime could not use the GPU that the spec asks for and would silently have computed on the CPU, so that the
    measurement would be meaningless. Usually the driver is too old for the package, or CUDA or cuDNN libraries are
    missing.
E428 tracing would freeze a line of the model's code
    `torch.export` and `torch.jit.script` refuse the model. Tracing takes it, but records what the code did for the samples:
    an `if` on a tensor's values or sizes always goes that way, a number made of a tensor is always that number. Rewrite the
    line, or accept it with `verify: {accept_traced: [net.py:9]}` if every request leads to the same.
E440 nothing can be measured
    None of the sizes in `benchmark.batch_sizes` is within the range of the batch dimension.
E451 the winner is missing
    The artifact of the selected variant is not in the store. `mlo apply SPEC --replace render` makes it anew.
E452 the artifacts cannot be rendered
    A value of the spec or of the decision does not fit the templates.
E480 the places of secrets do not fit together
    In Kubernetes each Secret is mounted as a folder: the certificate and its key lie in one, the tokens in another, and none in another's.
E481 the server's certificate cannot be used
    The certificate or the key of `serving.tls` is missing, expired, not yet valid, encrypted, no PEM, or they do not belong together:
    on this machine, on that of the Docker Engine, or in the Secret of the cluster.
    Whether a clients' authority signed it, and for which name, is for those who make it: mlo compares the certificate itself.
E482 the server shows another certificate
    mlo talks to a deployment with `serving.tls` only if it shows the certificate in the file that the spec named when it was deployed,
    or on a cluster, while it is released, the one in the Secret.
E490 more replicas are needed than there may be
    `slo.total_throughput` divided by what one replica is proven to hold is more than `serving.replicas.max`, the platform's
    limit, or the one replica that the target runs. Ask for less, allow more replicas, or give each more CPUs.
E491 servers cannot be measured in containers
    With `benchmark: {inside: container}`, servers are started in containers of their images, and the Docker Engine that builds and
    runs them does not respond.
E501 no candidate meets the service level
    All verified candidates are slower than `slo` requires; the table shows by how much. Give the model more CPUs, lower
    the requirement, or set `slo: {enforce: false}` to deploy the best candidate anyway.
E502 no candidate is left
    Every candidate was dropped: it could not be built, failed a gate, or was not faster than the original model. The
    table shows the result of each; `mlo explain SPEC CANDIDATE` gives details.
E601 the supervisor did not start or stop
    A local deployment is watched by a supervisor process, which did not start or could not be stopped.
E602 no such deployment
    There is no deployment with this name in the store that was used, which the message and `mlo status` name. For `mlo explain`
    and `mlo report`: nothing is decided under this name there, or about this spec in its present form.
E603 the server exited during start-up
    The server of the new revision exited before it was ready. A revision that served before keeps serving.
E604 the server was not ready in time
    The server of the new revision did not become ready within the time limit. A revision that served before
    keeps serving.
E605 another command is deploying
    Another command is deploying the same name right now.
E606 the supervisor does not respond
    The deployment's supervisor process has exited or hangs, or another version of mlo started it and the two cannot talk to
    each other. The message says how to end it; the next apply starts the live revision again.
E607 traffic could not be switched
    The new revision was ready, but the switch was refused or failed on the way. If it was refused, the previous revision
    keeps serving; otherwise `mlo status` shows which one does.
E608 wrong answers from the server
    The answers to golden requests are outside the gates, although the variant passed them without the server. A
    revision that served before keeps serving. They would differ again: choose another `serving.backend`, or widen a limit in
    `verify:`.
E609 the server failed a golden request
    The server answered a request made from the samples with an error. A revision that served before keeps
    serving.
E610 connection refused
    The deployment's address accepts no connections.
E611 the server refused the request
    The inputs do not fit the model: a name, a type or a shape is wrong.
E612 the server failed
    The server answered with an error or closed the connection. Its log says why.
E613 request timed out
    The server did not answer within the time limit.
E614 the input file does not fit the model
    The file given to `mlo predict` does not contain the model's inputs by name.
E615 no log
    The deployment has never been started on this machine, or it is a folder: whatever reads the folder keeps the log.
E616 the backend cannot run here
    Something that the backend needs is missing on this machine.
E617 the deployment's files are damaged
    The folder that the server is started from is incomplete, or a file in the deployment's own folder cannot be read.
E618 port in use
    Another process is listening on `deploy.port`, or on the port after it, which is for gRPC (`serving.grpc`). `mlo apply`
    checks this before it computes anything.
E619 not running
    The deployment is recorded, but its server or files are gone, or it is a folder and something else serves from it; or somebody
    has changed its Deployment on a cluster so that the server is not found in the pods.
E620 the folder cannot be used
    `deploy: {target: folder}` writes to a folder that is new or empty, or that holds an earlier revision of the same
    deployment, and that you may write to. `mlo apply` checks this before it computes anything.
E621 the folder was modified
    The copied files differ from the rendered ones: another process is writing to the folder.
E622 no revision to roll back to
    `mlo history` lists the revisions. A revision whose artifacts were removed by `mlo gc` cannot serve again.
E623 the traffic cannot be split
    A share of the traffic was requested, by `deploy: strategy:`, from a target that gives a revision either all of it or none.
E624 another store serves this name
    Two stores of one user would serve one name on this machine, each unaware of the other. The message names the other store.
E625 no token for the server
    Requests to this deployment need a token (`serving.auth`), and the file with the accepted ones cannot be read, or holds none.
E626 a new revision is worse than what serves
    At a step of `deploy: strategy: canary:`, requests to the new revision failed, or its calls or its 99th percentile took longer
    than those of what serves, beyond doubt, and by more than both differed when they were measured. It was taken back.
E627 a new revision could not be compared with what serves
    At a step of `deploy: strategy: canary:`, requests failed again and again while the cluster lost the connections that carried them, so
    nothing can be said of the revision. It was taken back.
E630 the image cannot be built
    Images are built by the Docker Engine that `DOCKER_HOST` or the current Docker context names, and it does not respond or
    refuses. `mlo doctor` says whether mlo reaches one.
E631 the build of the image failed
    An instruction of the Dockerfile failed; the notes are the last lines of its log. What serves is not touched.
E632 the image was not pushed
    The registry of `image.registry` refused the image. The cause is what it said.
E633 the engine's disk is full
    The build of an image needs the disk of the machine where the Docker Engine runs. `docker system df` shows what uses it.
E634 the base image cannot be had
    The image that `image.base` names, or the default one, is neither in the engine nor can it be pulled.
E635 not logged in to the registry
    mlo uses the credentials of Docker's own configuration and its credential helpers: `docker login REGISTRY`.
E636 no permission to push
    The registry knows the user, who may not push to this path.
E637 the registry cannot be reached
    The Docker Engine, which is what pushes, does not reach the registry of `image.registry`.
E638 wheels are missing
    With `image: {build: {pip_index: ...}}`, pip fetches the wheels of an image on this machine, with its own configuration and
    credentials: `pip download --index-url URL PACKAGE` shows whether it can.
E639 the packages of an image cannot be listed
    The list of an image's packages is read in a container of it, with dpkg.
E650 the package for clusters is missing
    `deploy: {target: kubernetes}` needs the package `kubernetes`, which the extra of the same name installs.
E651 no such context
    The cluster is that of `deploy: context:`, else of the kubeconfig's current context; the kubeconfig is what `KUBECONFIG`
    names, else `~/.kube/config`. It has no such context, or cannot be read.
E652 the cluster does not answer
    The API server did not answer in time, or nothing listens there, or it is too busy. Pods that serve do not need it, and keep
    serving.
E653 Helm is missing
    Releases on a cluster are made by Helm, the program, on this machine: on the PATH, or beside the Python that runs mlo.
E654 no permission on the cluster
    The cluster does not let this user do what a release needs. docs/kubernetes.md has a Role with exactly the rights needed.
E655 the namespace cannot be used
    It does not exist, or is being deleted; or the deployment's name is kept for another purpose.
E656 the image cannot be pulled
    A node could not get the image. Without `image.registry` only nodes that use the engine that built it have it. The
    previous revision keeps serving.
E657 no node takes the pod
    The scheduler finds no node for the pod, or the cluster refuses to make it: a quota, or a rule for pods. The cause is the
    cluster's own message. The previous revision keeps serving.
E658 the server crashes on the cluster
    The container ended twice; the last lines of its log are shown. The previous revision keeps serving.
E659 out of memory on the cluster
    The kernel ended the container at its memory limit, which is `hardware.memory`. The previous revision keeps serving.
E660 not ready in time on the cluster
    The pods did not become ready, or the Service does not reach them. The previous revision keeps serving.
E661 Helm failed
    The cause is what Helm says. A failed upgrade is rolled back.
E662 the name is taken
    The namespace has a Helm release of that name that was not made by mlo, which is not touched.
E663 something is missing for the pod
    A Secret, a ConfigMap or a volume that the pod needs does not exist, or lacks a key, or its command cannot be started. The previous
    revision keeps serving.
E665 the cluster is too old
    The cluster lacks API groups that a release needs.
E666 no port-forward to the pod
    Golden requests reach the pod through the API server, as with `kubectl port-forward`, and the cluster does not forward them.
    The previous revision keeps serving.
E667 the cluster refuses a request
    A request was refused for another reason than missing rights: an object was changed or removed meanwhile, or it breaks a rule of
    the cluster. The cause is the cluster's own message.
E668 another form of release
    A deployment that serves as a Deployment cannot become an InferenceService of KServe, or the other way round, without a time in
    which nothing serves. Deploy it under another name, or destroy it first.
E670 images need a registry
    What is committed to Git names its image by the digest that a registry gave it, so `deploy: {target: gitops}` needs
    `image.registry`, and this machine pushes there. Log in with `docker login REGISTRY`.
E671 the folder for Git cannot be used
    `deploy: {target: gitops}` writes to a folder that is new or empty, or that holds the same deployment, as its file
    `.mlo-gitops.json` says; commit that file together with the others. Files of your own may lie beside those of mlo, which
    never touches them, but not where mlo writes one.
E672 the folder is in no repository
    The files for Argo CD and Flux name the path of the folder in its repository, whose root is the folder with `.git`.
E673 Helm is missing
    Plain manifests and a Kustomize base are made of the chart by `helm template` on this machine. `form: helm` needs no Helm
    here, because Argo CD and Flux bring their own.
E674 Helm refuses the chart
    The values do not fit the chart, or the chart needs another version of Kubernetes. The cause is what Helm says.
E675 the image has no digest
    The image was built, but not pushed, so nothing says which image a cluster would run.
E676 an environment that needs an image of its own
    Environments with the same `deploy.path` are written into one folder, as overlays of one image. One that changes what the
    decision depends on, such as `hardware` or `slo`, needs a path of its own, and `mlo apply --environment NAME`.
E678 two routes
    KServe brings the route of an InferenceService, so `deploy.ingress` has no place beside it.
E679 TLS behind KServe
    KServe's routes send plain HTTP to the pods of an InferenceService, so a server that speaks TLS would get no request that it
    understands. TLS is ended by KServe's gateway, which has a certificate of its own.
E680 an endpoint that cannot be measured
    What `mlo benchmark` was given is no model on a server of the Open Inference Protocol v2, or it does not answer requests. The
    cause says which, or what it answers.
E640 the Docker Engine does not respond
    Nothing answers where `DOCKER_HOST` or the current Docker context says that the engine is, or where the deployment was
    recorded to be. Containers that run there go on serving.
E641 another store has this name at the engine
    Two stores would deploy one name to one Docker Engine, each unaware of the other. The message names the other store.
E642 a container or network of another
    The engine has something with the name that mlo would give it, and without mlo's labels. mlo does not touch it.
E643 the Docker Engine refused
    The engine answered, and does not do what mlo asked; the cause is the engine's own sentence.
E644 a container ran out of memory
    The kernel ended the server of the new revision because its container took more than `hardware.memory`. The previous
    revision keeps serving.
E645 the image of the front cannot be built
    The container that publishes the port runs HAProxy, from an image that is built once for each engine, on the base of the
    model's image. The last lines of the build's log are shown.
E646 the front does not obey
    The container that publishes the port refused an order, or does not run properly.
E647 the published port cannot be reached
    mlo proves each revision with requests before it has traffic, and they cannot get from here to the engine's machine.
E648 the revision's image is gone
    The image was removed from the engine, and cannot be pulled. Applying the spec builds it again.
E701 the store cannot be used
    Reading or writing a file in the store failed; the cause is the error of the operating system. Finished results are
    not lost.
E702 no place for the store
    mlo keeps its files in `.mlo` at the root of the repository, or in `MLO_HOME`, and cannot write there.
E703 locked by another command
    Another command is working on the same thing. Locks are released when their process ends; never remove one by hand.
E704 the state cannot be read
    The file that records deployments is damaged. mlo does not overwrite it.
E705 the state is from another version
    The state was written by a newer version, or by an older one in a form that is no longer read. The message names it.
E706 a file cannot be stored
    The store accepts regular files only: no links that lead elsewhere, no devices, nothing that other users can modify.
E709 a step's summary is not JSON
    A bug in the step's code.
E714 a document from another version
    A document in the store was written by another version of mlo, or was modified, and cannot be read reliably.
    `mlo apply SPEC --replace STEP` writes it anew.
E715 the store is from another version
    The layout of the store differs between versions of mlo, and this version cannot read the existing
    one. The store was not modified. Its results can be computed again: destroy its deployments with the version that created
    them, then remove the folder. Or set `MLO_HOME` to another folder.
W601 the deployment is unchanged
    The command failed before it changed the deployment; the previous revision still serves.
W602 the deployment is not as before
    The command failed after it had switched the deployment, or something else changed it. The message names the revision
    that serves; the next apply records it, or replaces it.
W708 locks do not work here
    The file system does not support locks between processes. Put `MLO_HOME` on a local disk.
E900 a bug in mlo
    Something unexpected happened. The message names a report with the traceback; please send it.
"""
