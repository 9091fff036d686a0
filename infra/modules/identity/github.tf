# Workflows of one repository push images with a token that lives for minutes; no secret is stored anywhere.

resource "aws_iam_openid_connect_provider" "github" {
  count          = var.github == null ? 0 : 1
  url            = "https://token.actions.githubusercontent.com"
  client_id_list = ["sts.amazonaws.com"]
}

resource "aws_iam_role" "github" {
  count                = var.github == null ? 0 : 1
  name                 = "${var.name}-github"
  permissions_boundary = var.permissions_boundary_arn
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Federated = aws_iam_openid_connect_provider.github[0].arn }
      Action    = "sts:AssumeRoleWithWebIdentity"
      Condition = {
        StringEquals = { "token.actions.githubusercontent.com:aud" = "sts.amazonaws.com" }
        StringLike = {
          "token.actions.githubusercontent.com:sub" = [
            for one in var.github.subjects : "repo:${var.github.repository}:${one}"
          ]
        }
      }
    }]
  })
}

resource "aws_iam_role_policy" "github" {
  # checkov:skip=CKV_AWS_355:the token of a registry is the only "*"
  count = var.github == null ? 0 : 1
  name  = "push-images"
  role  = aws_iam_role.github[0].name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      local.log_in_to_registry,
      {
        Sid    = "PushImages"
        Effect = "Allow"
        Action = concat(local.pull_images.Action, [
          "ecr:CompleteLayerUpload", "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart",
        ])
        Resource = var.repository_arns
      },
    ]
  })
}
