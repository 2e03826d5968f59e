{{- /* Names and labels that several objects share. */ -}}

{{- define "mlo-model.name" -}}
{{- .Values.model.name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- /* The release's name, followed by the model's name if that differs. */ -}}
{{- define "mlo-model.fullname" -}}
{{- $name := .Release.Name }}
{{- if not (contains .Values.model.name $name) }}
{{- $name = printf "%s-%s" $name .Values.model.name }}
{{- end }}
{{- $name = default $name .Values.fullnameOverride | trunc 53 | trimSuffix "-" }}
{{- if not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" $name) }}
{{- fail (printf "release name %q: a Service's name begins with a letter and has no dots; name the release otherwise" .Release.Name) }}
{{- end }}
{{- $name }}
{{- end }}

{{- /* Selectors never change during the life of a release, so they contain nothing from the decision. */ -}}
{{- define "mlo-model.selectorLabels" -}}
app.kubernetes.io/name: {{ include "mlo-model.name" . | quote }}
{{- if .Values.candidate.of }}
mlo/candidate-of: {{ .Values.candidate.of | quote }}
{{- else }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}
{{- end }}

{{- /* By this label, the Service of the release that a candidate stands beside selects the candidate's pods as well, or does not. */ -}}
{{- define "mlo-model.podInstance" -}}
app.kubernetes.io/instance: {{ .Values.candidate.traffic | ternary .Values.candidate.of .Release.Name | quote }}
{{- end }}

{{- /* Those of the pod of `helm test`, which no Service may select. */ -}}
{{- define "mlo-model.testLabels" -}}
app.kubernetes.io/name: {{ include "mlo-model.name" . }}-test
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: test
{{- end }}

{{- define "mlo-model.ownLabels" -}}
{{ include "mlo-model.selectorLabels" . }}
{{- if .Values.candidate.of }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}
{{- with include "mlo-model.version" . }}
app.kubernetes.io/version: {{ . | quote }}
{{- end }}
app.kubernetes.io/component: model-server
app.kubernetes.io/part-of: {{ include "mlo-model.name" . | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
mlo/backend: {{ .Values.model.backend | quote }}
mlo/variant: {{ .Values.model.variant | quote }}
{{- end }}

{{- /* The tag as the value of a label, which begins and ends with a letter or digit; nothing where none is left. */ -}}
{{- define "mlo-model.version" -}}
{{- regexReplaceAll "[^A-Za-z0-9]+$" (regexReplaceAll "^[^A-Za-z0-9]+" .Values.image.tag "" | trunc 63) "" }}
{{- end }}

{{- /*
Labels and annotations of an object: list of the root, then mappings of its own. The chart's come first, because selectors
depend on some, then the object's own, then those of all objects. A fourth item has labels that precede even the chart's.
*/ -}}
{{- define "mlo-model.labelled" -}}
{{- $root := index . 0 -}}
{{- $first := gt (len .) 3 | ternary (last .) dict -}}
labels:
  {{- toYaml (merge (deepCopy $first) (include "mlo-model.ownLabels" $root | fromYaml) (deepCopy (index . 1)) (deepCopy $root.Values.labels)) | nindent 2 }}
{{- with merge (deepCopy (index . 2)) (deepCopy $root.Values.annotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "mlo-model.annotations" -}}
mlo/model-digest: {{ .Values.model.modelDigest | quote }}
mlo/decision-digest: {{ .Values.model.decisionDigest | quote }}
{{- if .Values.model.revision }}
mlo/revision: {{ .Values.model.revision | quote }}
{{- end }}
{{- end }}

{{- /* By the settings, mlo knows whether a spec still asks for what is deployed. Pods need not restart for them alone. */ -}}
{{- define "mlo-model.deploymentAnnotations" -}}
{{- include "mlo-model.annotations" . }}
{{- with .Values.model.settings }}
mlo/settings: {{ . | quote }}
{{- end }}
{{- end }}

{{- /* The settings of the server are in the image, so the checksum only covers what is known about it here. */ -}}
{{- define "mlo-model.podAnnotations" -}}
{{- $own := include "mlo-model.annotations" . | fromYaml }}
{{- $_ := set $own "checksum/server" (.Values.image.server | toJson | sha256sum) }}
{{- $_ := set $own "kubectl.kubernetes.io/default-container" (include "mlo-model.containerName" .) }}
{{- toYaml (merge $own (deepCopy .Values.podAnnotations)) }}
{{- end }}

{{- /* Checks that the schema of the values cannot express. */ -}}
{{- define "mlo-model.checked" -}}
{{- if lt (int .Values.replicas.max) (int .Values.replicas.min) }}
{{- fail (printf "replicas: min is %v and max is %v; max must not be less" .Values.replicas.min .Values.replicas.max) }}
{{- end }}
{{- if and (eq (int .Values.rollout.maxSurge) 0) (eq (int .Values.rollout.maxUnavailable) 0) }}
{{- fail "rollout: maxSurge and maxUnavailable are 0; with no pod more and none fewer, none is ever replaced" }}
{{- end }}
{{- if ne (empty .Values.auth.tokenFile) (empty .Values.auth.secret) }}
{{- fail "auth: tokenFile and secret belong together; set both or none" }}
{{- end }}
{{- $tls := compact (list .Values.tls.certificate .Values.tls.key .Values.tls.secret) }}
{{- if and $tls (lt (len $tls) 3) }}
{{- fail "tls: certificate, key and secret belong together; set all or none" }}
{{- end }}
{{- if ne (dir .Values.tls.certificate) (dir .Values.tls.key) }}
{{- fail "tls: certificate and key are files of one folder" }}
{{- end }}
{{- range .Values.volumes }}
{{- if has .name (list "temporary" "tokens" "certificate") }}
{{- fail (printf "volumes: the name %q is taken by the chart; choose another one" .name) }}
{{- end }}
{{- end }}
{{- if and .Values.inferenceService.enabled (or .Values.ingress.enabled .Values.httpRoute.enabled) }}
{{- fail "inferenceService: KServe brings the route of an InferenceService; disable ingress and httpRoute" }}
{{- end }}
{{- if and .Values.inferenceService.enabled $tls }}
{{- fail "inferenceService: KServe's routes send plain HTTP to the pods; clear tls, and let KServe's gateway have the certificate" }}
{{- end }}
{{- if and .Values.candidate.traffic (not .Values.candidate.of) }}
{{- fail "candidate: traffic needs `of`, the release whose Service sends it" }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
{{- fail "ingress: hosts is empty; name at least one" }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
{{- fail "httpRoute: parentRefs is empty; name the Gateway" }}
{{- end }}
{{- end }}

{{- /* The port of the collector: that of its URL, or the scheme's. */ -}}
{{- define "mlo-model.tracesPort" -}}
{{- $url := urlParse .Values.traces.endpoint }}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (eq $url.scheme "https" | ternary "443" "80") }}
{{- end }}

{{- define "mlo-model.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository .Values.image.tag }}
{{- end }}
{{- end }}

{{- define "mlo-model.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "mlo-model.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}
