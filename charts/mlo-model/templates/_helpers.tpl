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
{{- $name = $name | trunc 53 | trimSuffix "-" }}
{{- if not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" $name) }}
{{- fail (printf "release name %q: a Service's name begins with a letter and has no dots; name the release otherwise" .Release.Name) }}
{{- end }}
{{- $name }}
{{- end }}

{{- /* Selectors never change during the life of a release, so they contain nothing from the decision. */ -}}
{{- define "mlo-model.selectorLabels" -}}
app.kubernetes.io/name: {{ include "mlo-model.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* The chart's own labels take precedence over those in the values, because selectors depend on some. */ -}}
{{- define "mlo-model.labels" -}}
{{- toYaml (merge (include "mlo-model.ownLabels" . | fromYaml) (deepCopy .Values.labels)) }}
{{- end }}

{{- define "mlo-model.ownLabels" -}}
{{ include "mlo-model.selectorLabels" . }}
app.kubernetes.io/version: {{ .Values.image.tag | trunc 63 | quote }}
app.kubernetes.io/component: model-server
app.kubernetes.io/part-of: {{ include "mlo-model.name" . | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
mlo/backend: {{ .Values.model.backend | quote }}
mlo/variant: {{ .Values.model.variant | quote }}
{{- end }}

{{- define "mlo-model.annotations" -}}
mlo/model-digest: {{ .Values.model.modelDigest | quote }}
mlo/decision-digest: {{ .Values.model.decisionDigest | quote }}
{{- end }}

{{- /* The chart's own annotations take precedence. Settings are in the image, so the checksum only covers values that are not. */ -}}
{{- define "mlo-model.podAnnotations" -}}
{{- $own := include "mlo-model.annotations" . | fromYaml }}
{{- $_ := set $own "checksum/server" (.Values.server | toJson | sha256sum) }}
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

{{- define "mlo-model.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "mlo-model.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- /* The TCP port of the collector. */ -}}
{{- define "mlo-model.tracesPort" -}}
{{- $url := urlParse .Values.traces.endpoint }}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (eq $url.scheme "https" | ternary "443" "80") }}
{{- end }}
