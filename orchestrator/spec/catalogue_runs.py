"""What the codes E2xx and E4xx to E8xx mean: plans, steps, selection, deployments, the store, the machine."""

from __future__ import annotations

__all__ = ["RUN_CODES"]

RUN_CODES = """
E201 no candidate
    Every format and precision that the spec allows is refused, each for the reason that is noted. Allow another
    format or precision under `optimize`, or another `serving.backend`.
E202 a framework is not installed
    mlo's core installs without frameworks. The message gives the command that installs what this model needs.
E203 an input cannot be read
    A file that the plan starts from cannot be read.
E204 the model is not the pinned one
    `sha256` in the spec pins the model: the content of its file, the digest of its folder, or for an ONNX model with
    external data the sha256 of what `sha256sum` prints for its files, the model first. It has another, which the message
    says. Restore the model, or pin the new one.
E200 wrong usage
    The command line names an option, an argument or a command that does not exist. `--help` shows what there is.
E205 the accelerator is not there
    The spec asks for GPUs, and measuring and proving happen on the machine that plans. The message says what is missing:
    the card, its driver, the container's access to it, or enough of them. Plan and apply on a machine that has them;
    what `mlo render` writes there runs on every machine with such GPUs. `mlo validate` works everywhere.
E210 not a saved plan
    The file cannot be read or was not written by `mlo plan SPEC --out FILE`.
E211 a plan of another version
    The saved plan has a format that this version does not apply. Plan again.
E212 stale plan
    What the plan was made from has moved: the spec, a file, a tool, or what is deployed. A saved plan is applied
    exactly or not at all; plan again and review the difference.
E213 no such step
    The plan has no step of this name. `mlo plan` lists the steps.
E214 options that a saved plan does not take
    A saved plan is applied as it was reviewed, so options that would change it are refused.
E215 a yes is needed
    Without a terminal nothing waits for an answer. Add `--yes`, or apply a saved plan.
E216 the output folder is in use
    Rendered files go into a folder that is new or empty, so that nothing is overwritten. `--force` replaces it.
E217 nothing to explain
    `mlo explain` knows codes, and for a spec its steps, its candidates and the keys of the spec.
E218 the output folder holds something else
    `mlo render --force` replaces what an earlier render wrote, as its file .mlo-rendered lists it. A folder without that
    file is never touched. Name a folder that is new or empty.
E219 the answer was no
    Nothing was changed. `--yes` applies without asking.
E401 a step raised an error
    The step's code, or code that it called, raised an error that is not foreseen. The log has the traceback, and
    `reproduce.sh` runs this one step alone.
E402 a step took too long
    The step was ended at its time limit. Raise `optimize.time_budget`, or try fewer candidates.
E403 a step ran out of memory
    The step used the memory that it may use, which for measurements is `hardware.memory`.
E404 a step died
    The step's process ended without a result: killed from outside, or by a fault in native code. The log's last
    lines and `reproduce.sh` say more.
E405 a file changed during a step
    A file was changed while the step read it, so the result belongs to neither version and is dropped.
E406 a step was stopped
    Ctrl-C stopped the step. The next run continues from the steps that were finished.
E407 interrupted
    Ctrl-C ended the command. What was finished is kept; run the same command again.
E408 a step could not start
    A step that it depends on did not succeed; that step's own message says why.
E409 the disk is full
    A step could not write its result. Everything that was finished before is kept. Make room, or set MLO_HOME to a
    folder on another disk, and run the same command again.
E420 a variant cannot be loaded
    The runtime refuses the converted model. The candidate is dropped, the others go on.
E421 a variant's outputs
    The converted model returns another number of tensors than `model.outputs` declares.
E422 the model cannot be exported
    The exporter cannot turn the model's code into a graph. The cause names the operator, the dimension or the line.
E423 a variant fails at an end of a range
    The converted model does not run at the smallest or largest size of a dimension. Often a size was taken as a
    constant in the model's code.
E424 an invalid ONNX file
    The exporter wrote a file that ONNX's checker refuses, or whose inputs and outputs are not the declared ones.
E425 the model cannot be quantized
    The model holds nothing that int8 can stand for, or the quantizer fails on it.
E426 a variant fails on an input
    The variant raised an error on samples or edge inputs that the model as given answers.
E427 the accelerator cannot be used
    The runtime did not get the GPU that the spec asks for. It would have computed on the CPU without a word, and the
    result would say nothing. Mostly the driver is too old for the package, or CUDA's or cuDNN's libraries are missing.
E440 nothing can be measured
    No batch size of `benchmark.batch_sizes` lies within the range of the batch dimension.
E451 the winner is missing
    The artifact of the picked variant is not in the store. Apply again; it is made anew.
E452 the artifacts cannot be rendered
    A value of the spec or of the decision does not fit what is rendered from it.
E501 no candidate meets the service level
    What was proven and measured is slower than `slo` asks for, and the table shows by how much. Give it more CPUs, ask
    for less, or set `slo: {enforce: false}` to deploy the best there is.
E502 no candidate is left
    Every candidate was dropped: it could not be made, failed a gate, or was not faster than the model as given. The
    table shows each one's fate; `mlo explain SPEC CANDIDATE` says more.
E601 the supervisor did not start or end
    A local deployment is watched by a supervisor process, which did not start or could not be ended.
E602 no such deployment
    No deployment has this name here. `mlo status` lists them; `MLO_HOME` says where they are looked for.
E603 the server ended while starting
    The new revision's server ended before it was ready. The previous revision keeps serving.
E604 the server was not ready in time
    The new revision's server did not become ready within its time limit. The previous revision keeps serving.
E605 deployed by another command
    Another command is deploying this name at the moment.
E606 the supervisor does not answer
    The deployment's supervisor process is gone or hangs.
E607 the traffic was not switched
    The new revision was ready, and directing requests to it failed. The previous revision keeps serving.
E608 the server answers wrongly
    Golden requests came back outside the gates, although the variant was proven without the server around it. The
    previous revision keeps serving.
E609 the server failed on a golden request
    A request that is made of the samples was answered with an error. The previous revision keeps serving.
E610 nothing listens
    The deployment's address takes no connections.
E611 the server refused the request
    The inputs do not fit the model: a name, a type or a shape.
E612 the server failed
    The server answered with an error or broke the connection. Its log says why.
E613 no answer in time
    The answer did not come within the time limit.
E614 the input file does not fit
    The file for `mlo predict` does not hold the model's inputs by name.
E615 no log
    The deployment was never started on this machine.
E616 the backend cannot be started here
    Something that the backend needs is missing on this machine.
E617 the backend's folder is damaged
    The folder that the server is started from is incomplete.
E618 the port is taken
    Another process listens on the port of `deploy.port`.
E619 not serving
    The deployment is remembered, and what it serves from is not there.
E620 the folder holds something else
    `deploy: {target: folder}` fills a folder that is new, empty, or that it filled before for the same deployment.
E621 the folder was changed meanwhile
    What was copied is not what was rendered: something else writes to the folder.
E622 no revision to go back to
    `mlo history` shows the revisions; those whose artifacts were removed by `mlo gc` cannot serve again.
E701 the store cannot be used
    Reading or writing a file of the store failed; the cause is the operating system's. Nothing finished is lost.
E702 no place for the store
    mlo keeps its files in `.mlo` where the command runs, or in `MLO_HOME`, and cannot write there.
E703 somebody else holds the lock
    Another command works on the same thing. Locks end with their process; none is ever removed by hand.
E704 the state cannot be read
    The file that remembers deployments is damaged. It is never overwritten in that case.
E705 the state is from a newer mlo
    A newer version wrote the state. Use that version here.
E706 a file cannot be kept
    The store takes regular files that nobody else can change: no links to elsewhere, no devices.
E709 a step's summary is no JSON
    A fault in the step's code.
E714 a document of another version
    What a step left in the store was written by another version of mlo, or was changed. It is never guessed at.
W601 the deployment is unchanged
    The command failed before it touched the deployment; the former revision still serves.
W708 locks do not work here
    The file system does not keep two processes apart. Use a local disk for `MLO_HOME`.
E900 a bug in mlo
    Something happened that mlo does not foresee. The report that the message names has the traceback; please send it.
"""
