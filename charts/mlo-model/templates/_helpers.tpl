{{- /* Names and labels that several objects share. */ -}}

{{- define "mlo-model.name" -}}
{{- .Values.model.name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- /* The release's name, with the model's where it is another. */ -}}
{{- define "mlo-model.fullname" -}}
{{- if contains .Values.model.name .Release.Name }}
{{- .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name .Values.model.name | trunc 53 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* What selects pods never changes over the life of a release, so nothing of the decision is in it. */ -}}
{{- define "mlo-model.selectorLabels" -}}
app.kubernetes.io/name: {{ include "mlo-model.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "mlo-model.labels" -}}
{{ include "mlo-model.selectorLabels" . }}
app.kubernetes.io/version: {{ .Values.image.tag | trunc 63 | quote }}
app.kubernetes.io/component: model-server
app.kubernetes.io/part-of: {{ include "mlo-model.name" . | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
mlo/backend: {{ .Values.model.backend | quote }}
mlo/variant: {{ .Values.model.variant | quote }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "mlo-model.annotations" -}}
mlo/spec-digest: {{ .Values.model.specDigest | quote }}
mlo/model-digest: {{ .Values.model.modelDigest | quote }}
mlo/decision-digest: {{ .Values.model.decisionDigest | quote }}
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
